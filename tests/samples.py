"""Small messages for tests."""

from __future__ import annotations

import numpy as np

from streamer.messages import Detections, FrameInfo, Tracks


def info_of(
    seq: int, *, camera: str = "gate", epoch: int = 1, width: int = 34, height: int = 18
) -> FrameInfo:
    """What is known of a frame at 25 fps whose wall clock follows its media clock."""
    return FrameInfo(
        camera=camera,
        seq=seq,
        epoch=epoch,
        width=width,
        height=height,
        pts=seq,
        time_base=(1, 25),
        capture_ns=1_795_256_130_123_456_789 + seq * 40_000_000,
        receive_ns=5_000_000_000 + seq * 40_000_000,
    )


def word_of(seq: int, *, camera: str = "gate") -> Detections:
    """A message without pixels."""
    return Detections(info_of(seq, camera=camera), b"", b"", b"", ("person",))


def tracks_of(
    info: FrameInfo,
    tracks: dict[int, tuple[float, float, float, float]],
    *,
    ended: tuple[int, ...] = (),
    scores: tuple[float, ...] | None = None,
) -> Tracks:
    """Tracks of one frame by number, with a detection under each of them."""
    boxes = np.array(list(tracks.values()), np.float32).reshape(-1, 4).tobytes()
    score = np.array(scores or (0.875,) * len(tracks), np.float32).tobytes()
    classes = np.zeros(len(tracks), np.int16).tobytes()
    found = Detections(info, boxes, score, classes, ("person", "car"))
    ids = np.array(list(tracks), np.int64).tobytes()
    velocities = np.zeros((len(tracks), 2), np.float32).tobytes()
    return Tracks(info, found, ids, boxes, velocities, score, classes, ended)
