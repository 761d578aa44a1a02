"""Turn detections into tracks with identities; knows no queue, no process and no pixel."""

from streamer.tracking.detections import CONFIRMED, LOST, TENTATIVE, Detections, Tracks
from streamer.tracking.options import TrackerOptions
from streamer.tracking.tracker import Tracker, make_tracker

__all__ = [
    "CONFIRMED",
    "LOST",
    "TENTATIVE",
    "Detections",
    "Tracker",
    "TrackerOptions",
    "Tracks",
    "make_tracker",
]
