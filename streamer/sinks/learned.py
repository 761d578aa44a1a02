"""Compress canvases into one .lvc file with the learned codec, in a thread of its own.

What the network needs is taken from the canvas at its own, smaller size; where the canvases change
theirs, the file goes on with a new geometry. `is_behind` says that frames come faster than the
network takes them. One per file; not thread-safe.
"""

from __future__ import annotations

import contextlib
import math
import queue
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.codec.player import Recorder
from engines.codec.rate import ConstantQuality, RateControl, TargetRate
from engines.codec.records import Header
from engines.codec.runtime import RtRuntime, RtState
from engines.codec.writer import LvcWriter
from engines.errors import EngineError
from engines.zoo import find_codec
from streamer.errors import SinkError
from streamer.planes import Planes
from streamer.sinks.base import Canvas, WriterStatistics
from streamer.sinks.encoder import COLOURS, TIME_BASE, LearnedOptions, WriterOptions
from streamer.sinks.fragments import sink_error
from streamer.sinks.mp4 import blank_canvas
from streamer.sources.base import FrameTimes

INTRA_PERIOD = 96
"""Frames between two intra frames; each can be sought."""
BLOCK_PX = 16
_TRIAL_SIZE, _TRIALS, _LEAST_TRIALS, _TRIAL_S = (320, 192), 7, 3, 0.5
_SCALES = (1.0, 3 / 4, 2 / 3, 1 / 2, 3 / 8, 1 / 3, 1 / 4)
_LEAST_PX = 96
_SAME_SHAPE = 0.03
"""Relative difference between two ratios of sides that no one sees."""
_SHARE = 0.5
"""Of the time that a frame has, for its network."""
_WAITING = 25
"""Live frames that may wait for the network; offline it is one, for which write waits."""
_BEHIND = 15
_idle: defaultdict[tuple[str, str, int], list[RtRuntime]] = defaultdict(list)
"""Networks that no file uses now; loading one takes longer than a frame has."""


@dataclass(frozen=True, slots=True)
class _Job:
    planes: Planes
    emphasis: NDArray[np.int8] | None
    pts: int
    capture_ns: int


class LvcFile:
    """See base.PictureFile."""

    def __init__(
        self,
        path: Path,
        options: WriterOptions,
        *,
        width: int,
        height: int,
        overwrite: bool = False,
    ) -> None:
        """Load the network and begin the file.

        Args:
            path: of the file; its folder must exist.
            options: with `learned`.
            width: of the first canvas, px; its picture has the size that `learned` says, or as
                many pixels where that has another shape.
            height: of the first canvas, px.
            overwrite: True replaces an existing file.

        Raises:
            ModelError: the model is not there.
            SinkError: the file can't be made.
        """
        assert options.learned is not None
        learned = self._learned = options.learned
        self.path, self.width, self.height = path, width, height
        self.codec: str = options.codec
        self.finished = False
        self.size = self.recorded_size(width, height)
        self._live = options.live
        self._key = (learned.model, learned.device, max(1, options.threads))
        self._codec = take_codec(*self._key)
        self._writer = self._create(options, overwrite)
        self._recorder: Recorder[RtState] = Recorder(
            self._codec, self._writer, quality=_rate_of(learned)
        )
        self._first_pts: int | None = None
        self._last = -1
        self._taken = self._encode_ns = 0
        self._error: Exception | None = None
        self._closed = False
        self._jobs: queue.Queue[_Job | None] = queue.Queue(_WAITING if self._live else 1)
        self._thread = threading.Thread(target=self._run, name="learned", daemon=True)
        self._thread.start()

    @property
    def statistics(self) -> WriterStatistics:
        """See base.PictureFile."""
        return WriterStatistics(
            frames=self._taken,
            frames_flushed=self._writer.frames,
            size_bytes=self._writer.size_bytes,
            flushed_s=float(self._writer.last_pts * TIME_BASE),
            encode_ms=self._encode_ns / 1e6,
        )

    @property
    def ended(self) -> bool:
        """See base.PictureFile."""
        return not self._thread.is_alive()

    @property
    def is_behind(self) -> bool:
        """True if frames come faster than the network takes them; a file can wait for it."""
        return self._live and self._jobs.qsize() >= _BEHIND

    def recorded_size(self, width: int, height: int) -> tuple[int, int]:
        """See base.PictureFile; it takes canvases of any size."""
        wanted = self._learned.size or (width, height)
        across, down = wanted[0] / width, wanted[1] / height
        if abs(across / down - 1) < _SAME_SHAPE:
            return wanted
        scale = min(1.0, math.sqrt(across * down))
        return (max(2, int(width * scale / 2) * 2), max(2, int(height * scale / 2) * 2))

    def blank(self, width: int | None = None, height: int | None = None) -> Canvas:
        """See base.PictureFile."""
        return blank_canvas(width or self.width, height or self.height)

    def write(self, canvas: Canvas, times: FrameTimes) -> None:
        """See base.PictureFile; offline it waits for the network."""
        self._raise()
        if self._closed or self.ended:
            raise SinkError(f"{self.path}: this file was closed or broke off; begin another one")
        if self._first_pts is None:
            self._first_pts = times.pts
        now = round((times.pts - self._first_pts) * times.time_base / TIME_BASE)
        now = max(now, self._last + 1)
        self._last = now
        emphasis = None
        planes = canvas.planes
        size = self.recorded_size(planes.width, planes.height)
        if canvas.objects_xyxy is not None:
            across, down = size[0] / planes.width, size[1] / planes.height
            objects = canvas.objects_xyxy * np.array([across, down, across, down], np.float32)
            emphasis = emphasis_of(objects, size, self._learned.emphasis)
        job = _Job(_scaled(planes, size), emphasis, now, times.capture_ns)
        self._jobs.put(job)
        self._taken += 1

    def finish(self) -> None:
        """See base.PictureFile."""
        if not self._closed:
            self._closed = True
            self._jobs.put(None)

    def close(self) -> None:
        """See base.PictureFile."""
        self.finish()
        self._thread.join()
        self._raise()

    def _create(self, options: WriterOptions, overwrite: bool) -> LvcWriter:
        header = Header(
            self._codec.name,
            self._codec.model_hash,
            *self.size,
            TIME_BASE,
            INTRA_PERIOD,
            self._codec.refresh_period,
            matrix=COLOURS[options.matrix],
        )
        try:
            return LvcWriter(self.path, header, overwrite=overwrite)
        except OSError as error:
            give_back(self._key, self._codec)
            raise sink_error(self.path, error) from error

    def _run(self) -> None:
        try:
            while (job := self._jobs.get()) is not None:
                begin_ns = time.perf_counter_ns()
                self._recorder.add(
                    job.planes,
                    pts=job.pts,
                    capture_ns=job.capture_ns,
                    emphasis=job.emphasis,
                    following=self._following(),
                )
                self._encode_ns += time.perf_counter_ns() - begin_ns
            self._recorder.close()
            self._writer.close()
            self.finished = True
        except (OSError, EngineError, ValueError) as error:
            self._error = error
            self._drain()
        finally:
            for part in (self._recorder, self._writer):
                with contextlib.suppress(OSError):
                    part.close()
            give_back(self._key, self._codec)

    def _following(self) -> Planes | None:
        """What waits to be compressed next, if it is there already."""
        with self._jobs.mutex:
            job = self._jobs.queue[0] if self._jobs.queue else None
        return None if job is None else job.planes

    def _drain(self) -> None:
        """Let nobody wait for a network that is gone."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._jobs.get_nowait()

    def _raise(self) -> None:
        error, self._error = self._error, None
        if isinstance(error, OSError):
            saved = f"{self.statistics.flushed_s:.1f} s are saved and play"
            raise sink_error(self.path, error, saved=saved) from error
        if error is not None:
            raise SinkError(f"{self.path}: the codec failed: {error}") from error


def emphasis_of(
    objects_xyxy: NDArray[np.float32], size: tuple[int, int], most: int
) -> NDArray[np.int8] | None:
    """Quality that is added where things happen, and taken away elsewhere.

    Args:
        objects_xyxy: (N, 4) px.
        size: width and height of the picture.
        most: difference of quality between the two; 0 for none.

    Returns:
        (ceil(H/16), ceil(W/16)), None where there is nothing to tell apart.
    """
    if not most or not len(objects_xyxy):
        return None
    width, height = size
    rows, columns = -(-height // BLOCK_PX), -(-width // BLOCK_PX)
    grid = np.full((rows, columns), -(most // 2), np.int8)
    edges = objects_xyxy / BLOCK_PX
    for x1, y1, x2, y2 in np.clip(edges, 0, max(rows, columns)).tolist():
        grid[int(y1) : int(np.ceil(y2)), int(x1) : int(np.ceil(x2))] = most - most // 2
    return grid


def sustained_size(
    learned: LearnedOptions, width: int, height: int, *, fps: float, threads: int
) -> tuple[int, int] | None:
    """Measure the network on this machine, as busy as it is, and find the largest size that it
    sustains with half of its time to spare.

    Returns:
        Even width and height, at most those of the pictures; None if the least is too slow.

    Raises:
        ModelError: the model is not there.
    """
    key = (learned.model, learned.device, threads)
    codec = take_codec(*key)
    noise = np.random.default_rng(0)
    picture = Planes.empty(*_TRIAL_SIZE)
    planes = picture.y, picture.u, picture.v
    for plane in planes:
        plane[:] = cv2.GaussianBlur(noise.integers(16, 236, plane.shape, np.uint8), (0, 0), 3)
    state, spent_s = None, []
    for _ in range(_TRIALS):
        for plane in planes:
            plane[:] = np.roll(plane, 2, axis=1)  # a picture that stays costs nothing
        begin = time.perf_counter()
        _, state = codec.compress(picture, state, quality=learned.quality)
        spent_s.append(time.perf_counter() - begin)
        if len(spent_s) >= _LEAST_TRIALS and sum(spent_s) > _TRIAL_S:
            break  # frames wait
    give_back(key, codec)
    s_per_px = float(np.median(spent_s[2:])) / (_TRIAL_SIZE[0] * _TRIAL_SIZE[1])
    for scale in _SCALES:
        size = (round(width * scale / 2) * 2, round(height * scale / 2) * 2)
        if min(size) >= _LEAST_PX and size[0] * size[1] * s_per_px * fps <= _SHARE:
            return size
    return None


def load_codec(learned: LearnedOptions, *, threads: int) -> None:
    """Have a network ready for the first file.

    Raises:
        ModelError: it is not there.
    """
    key = (learned.model, learned.device, threads)
    give_back(key, take_codec(*key))


def take_codec(model: str, device: str, threads: int) -> RtRuntime:
    """A network that nobody else uses.

    Raises:
        ModelError: it is not there.
    """
    key = (model, device, threads)
    if _idle[key]:
        return _idle[key].pop()
    return RtRuntime(find_codec(model), device=device, threads=threads)


def give_back(key: tuple[str, str, int], codec: RtRuntime) -> None:
    """Let the next file have a network."""
    _idle[key].append(codec)


def _scaled(planes: Planes, size: tuple[int, int]) -> Planes:
    """A copy in another size, width and height."""
    small = Planes.empty(*size)
    if (planes.width, planes.height) == size:
        small.copy_from(planes)
        return small
    for plane, into in ((planes.y, small.y), (planes.u, small.u), (planes.v, small.v)):
        cv2.resize(plane, into.shape[::-1], dst=into, interpolation=cv2.INTER_AREA)
    return small


def _rate_of(learned: LearnedOptions) -> RateControl:
    if learned.kbps is None:
        return ConstantQuality(learned.quality)
    return TargetRate(learned.kbps, period=INTRA_PERIOD, start=learned.quality, cap=learned.cap)
