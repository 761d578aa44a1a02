"""A deterministic street with persons and vehicles, rendered on planes, and its exact truth."""

from streamer.sources.street.camera import CAMERAS, Camera
from streamer.sources.street.canvas import LABELS
from streamer.sources.street.street import Sighting, Street, Truth

__all__ = ["CAMERAS", "LABELS", "Camera", "Sighting", "Street", "Truth"]
