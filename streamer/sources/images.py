"""Turn a folder or a glob of pictures into a video; runs in the decode process.

Knows no network and no other source. Sizes may differ from picture to picture.
"""

from __future__ import annotations

import io
import logging
import re
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import av.error

from streamer.errors import SourceError
from streamer.sources.base import FrameTimes, SourceInfo
from streamer.sources.mediaclock import FPS_ASSUMED
from streamer.sources.options import DecodeStatistics
from streamer.sources.picture import PictureFrame, matrix_of

log = logging.getLogger(__name__)

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")


def is_image(path: Path) -> bool:
    """Say whether a file name is that of a picture."""
    return path.suffix.lower() in SUFFIXES


class ImageSource:
    """The pictures of a folder or glob in natural order: 2.png comes before 10.png."""

    def __init__(self, path: Path, *, fps: float | None = None) -> None:
        """Find the pictures.

        Raises:
            SourceError: "not_found": there is none.
        """
        self._fps = Fraction(fps).limit_denominator(100_000) if fps else FPS_ASSUMED
        self._paths = _find(path)
        self._closed = threading.Event()
        self.statistics = DecodeStatistics()

    def open(self) -> SourceInfo:
        """Decode the first picture that can be, and say its size."""
        self._closed.clear()
        self.statistics = DecodeStatistics()
        for path in self._paths:
            picture = _decode(path)
            if picture is not None:
                return SourceInfo(
                    width=picture.width,
                    height=picture.height,
                    fps_declared=float(self._fps),
                    codec=path.suffix.lower().lstrip("."),
                    live=False,
                    frames_declared=len(self._paths),
                    matrix=matrix_of(picture.colorspace, picture.format.name, picture.height),
                )
        raise SourceError(
            f"{self._paths[0].parent}: none of its {len(self._paths)} pictures can be decoded",
            reason="corrupt",
            permanent=True,
        )

    def frames(self) -> Iterator[PictureFrame]:
        """Yield the pictures; one that is damaged is counted and leaves a gap of one frame."""
        for index, path in enumerate(self._paths):
            if self._closed.is_set():
                return
            capture_ns, receive_ns = time.time_ns(), time.monotonic_ns()
            picture = _decode(path)
            self.statistics.packets += 1
            if picture is None:
                self.statistics.corrupt += 1
                log.warning("%s: no picture that can be decoded; left out", path)
                continue
            self.statistics.decoded += 1
            yield PictureFrame(
                picture, FrameTimes(index, 1 / self._fps, capture_ns, receive_ns, False)
            )

    def close(self) -> None:
        """End the iteration; nothing is held open."""
        self._closed.set()


def _find(path: Path) -> list[Path]:
    if path.is_dir():
        found = [p for p in path.iterdir() if is_image(p)]
    elif path.is_file():
        found = [path]
    else:
        found = [p for p in path.parent.glob(path.name) if p.is_file()]
    if not found:
        raise SourceError(
            f"{path}: no pictures there; wanted are files that end in {', '.join(SUFFIXES)}",
            reason="not_found",
            permanent=True,
        )
    return sorted(found, key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key in which numbers inside names count as numbers."""
    return [
        (int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)
    ]


def _decode(path: Path) -> av.VideoFrame | None:
    # From memory, because libav takes a % in a file name for a pattern.
    try:
        with av.open(io.BytesIO(path.read_bytes())) as container:
            for picture in container.decode(video=0):
                return None if picture.is_corrupt else picture
    except (av.error.FFmpegError, IndexError, OSError):
        return None
    return None
