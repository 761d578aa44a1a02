"""What every writer must do, whatever file or codec is behind it."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import av
import numpy as np
import pytest

from streamer.errors import SinkError
from streamer.planes import Planes
from streamer.sinks.base import Canvas
from streamer.sources.base import FrameTimes

START_UTC_NS = 1_795_256_130_123_456_789  # 2026-11-21T10:15:30.123456789Z


class Writer(Protocol):
    """What the three writers have in common."""

    def blank(self, width: int, height: int) -> Canvas: ...

    def write(self, canvas: Canvas, times: FrameTimes) -> object: ...

    def close(self) -> object: ...


def paint(planes: Planes, number: int) -> None:
    """Make a picture with something in it that moves: a dark field and a bright bar."""
    planes.fill(60, 100, 160)
    left = number * 4 % max(planes.width - 8, 1)
    planes.y[:, left : left + 8] = 200


def times_at(pts: int, time_base: Fraction, *, discontinuity: bool = False) -> FrameTimes:
    """Times of a frame whose wall clock follows its media clock."""
    now_ns = round(pts * time_base * 10**9)
    return FrameTimes(pts, time_base, START_UTC_NS + now_ns, now_ns, discontinuity)


def irregular_pts(count: int, time_base: Fraction, fps: float = 25.0) -> list[int]:
    """Media times of a variable frame rate that begin far from 0."""
    steps = np.random.default_rng(1).uniform(0.4, 1.8, count) / fps
    return [1_000_000 + int(s / time_base) for s in np.cumsum(steps)]


def decode(path: Path) -> tuple[list[float], list[av.VideoFrame]]:
    """Read times and pictures of a whole file."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return [float(frame.pts * frame.time_base) for frame in frames], frames


def check_writer(make: Callable[[], Writer], written: Callable[[], list[Path]]) -> None:
    """Write 30 frames of 160x96 and read them back.

    Args:
        make: gives a fresh writer.
        written: the files that the writer made, in order.
    """
    time_base = Fraction(1, 12800)
    wanted = irregular_pts(30, time_base)
    writer = make()
    for number, pts in enumerate(wanted):
        canvas = writer.blank(160, 96)
        assert (canvas.planes.width, canvas.planes.height) == (160, 96)
        paint(canvas.planes, number)
        writer.write(canvas, times_at(pts, time_base))
    writer.close()
    writer.close()  # a second time does nothing
    with pytest.raises(SinkError, match="closed"):
        writer.write(canvas, times_at(wanted[-1] + 1000, time_base))

    number = 0
    for path in written():
        times, frames = decode(path)
        assert times[0] == 0.0
        assert frames[0].key_frame
        source = [float(pts * time_base) for pts in wanted[number : number + len(times)]]
        assert times == pytest.approx([s - source[0] for s in source], abs=1e-3)
        for frame in frames:
            _check_picture(frame, number)
            number += 1
    assert number == len(wanted)


def _check_picture(frame: av.VideoFrame, number: int) -> None:
    luma, red = (np.asarray(plane).astype(int) for plane in _planes(frame))
    left = number * 4 % 152
    assert abs(luma[:, left + 2 : left + 6].mean() - 200) < 12
    field = np.delete(luma, np.s_[max(left - 8, 0) : left + 16], axis=1)
    assert abs(field.mean() - 60) < 4
    assert abs(red.mean() - 160) < 4
    assert frame.color_range == 1


def _planes(frame: av.VideoFrame) -> tuple[np.ndarray, np.ndarray]:
    whole = frame.to_ndarray(format="yuv420p")
    height, width = frame.height, frame.width
    return whole[:height], whole[height + height // 4 :].reshape(height // 2, width // 2)
