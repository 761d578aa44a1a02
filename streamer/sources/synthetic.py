"""Turn `synthetic:street?...` into frames of the rendered street; runs in the decode process.

Used by one thread, but close may come from another. A paced source keeps the time of a camera: a
frame is due at a fixed instant, and one that its reader is too late for is lost, not delayed.
"""

from __future__ import annotations

import difflib
import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from fractions import Fraction
from urllib.parse import parse_qsl

from streamer.errors import ConfigError
from streamer.planes import Planes
from streamer.sources.base import FrameTimes, SourceInfo
from streamer.sources.street import CAMERAS, Camera, Street

SCHEME = "synthetic"
_SECOND_NS = 1_000_000_000
_MIN_SIZE, _MAX_SIZE = (64, 48), (3840, 2160)
_MAX_SEED = 2**63 - 1


@dataclass(frozen=True, slots=True)
class StreetOptions:
    """What the address of a street says; each field is an option of the same name."""

    seed: int = 1
    """Decides everything that happens: 0..2^63-1."""
    size: tuple[int, int] = (1280, 720)
    """Width and height, as in 1280x720."""
    fps: Fraction = Fraction(25)
    """Frames a second; 29.97 means 30000/1001."""
    seconds: Fraction | None = None
    """How long it lasts; for ever if not given."""
    camera: Camera = "static"
    """static, shake (a pole in the wind) or pan (turning to and fro)."""

    @classmethod
    def parse(cls, uri: str) -> StreetOptions:
        """Read an address such as `synthetic:street?seed=1&size=1280x720&fps=25`.

        Raises:
            ConfigError: an option is unknown, given twice, or not what its rule says.
        """
        scheme, _, rest = uri.partition(":")
        scene, _, query = rest.partition("?")
        if (scheme, scene) != (SCHEME, "street"):
            raise ConfigError(
                f"{uri}: scene must be {SCHEME}:street, got {scheme}:{scene}; "
                f"use {SCHEME}:street?seed=1"
            )
        known = [field.name for field in fields(cls)]
        given: dict[str, str] = {}
        for name, value in parse_qsl(query, keep_blank_values=True):
            if name not in known:
                near = difflib.get_close_matches(name, known, 1, 0.0)[0]
                raise ConfigError(
                    f"{uri}: option must be one of {', '.join(known)}, got {name!r}; "
                    f"did you mean {near}?"
                )
            if name in given:
                raise ConfigError(
                    f"{uri}: {name} must be given once, got {given[name]!r} and {value!r}; "
                    "remove one"
                )
            given[name] = value
        defaults = cls()
        return cls(
            seed=_seed(uri, given["seed"]) if "seed" in given else defaults.seed,
            size=_size(uri, given["size"]) if "size" in given else defaults.size,
            fps=_fps(uri, given["fps"]) if "fps" in given else defaults.fps,
            seconds=_seconds(uri, given["seconds"]) if "seconds" in given else defaults.seconds,
            camera=_camera(uri, given["camera"]) if "camera" in given else defaults.camera,
        )

    @property
    def frames(self) -> int | None:
        """How many frames begin before the end; None if it has none."""
        return None if self.seconds is None else math.ceil(self.seconds * self.fps)


def _seed(uri: str, text: str) -> int:
    if not re.fullmatch(r"\d{1,19}", text) or int(text) > _MAX_SEED:
        raise ConfigError(f"{uri}: seed must be an int from 0 to {_MAX_SEED}, got {text!r}; use 1")
    return int(text)


def _size(uri: str, text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    size = (int(match[1]), int(match[2])) if match else (0, 0)
    if not all(low <= n <= high for low, n, high in zip(_MIN_SIZE, size, _MAX_SIZE, strict=True)):
        raise ConfigError(
            f"{uri}: size must be WIDTHxHEIGHT from {_MIN_SIZE[0]}x{_MIN_SIZE[1]} "
            f"to {_MAX_SIZE[0]}x{_MAX_SIZE[1]}, got {text!r}; use 1280x720"
        )
    return size


def _fps(uri: str, text: str) -> Fraction:
    value = _fraction(text)
    if value is None or not 1 <= value <= 120:
        raise ConfigError(
            f"{uri}: fps must be a number from 1 to 120 such as 25, 29.97 or 30000/1001, "
            f"got {text!r}; use 25"
        )
    ntsc = Fraction(math.ceil(value) * 1000, 1001)
    return ntsc if "." in text and abs(value - ntsc) < Fraction(5, 1000) else value


def _seconds(uri: str, text: str) -> Fraction:
    value = _fraction(text)
    if value is None or value <= 0:
        raise ConfigError(
            f"{uri}: seconds must be a number above 0, got {text!r}; "
            "leave it out for a street without end"
        )
    return value


def _camera(uri: str, text: str) -> Camera:
    for camera in CAMERAS:
        if text == camera:
            return camera
    near = difflib.get_close_matches(text, CAMERAS, 1, 0.0)[0]
    raise ConfigError(
        f"{uri}: camera must be one of {', '.join(CAMERAS)}, got {text!r}; did you mean {near}?"
    )


def _fraction(text: str) -> Fraction | None:
    if not re.fullmatch(r"\d{1,9}(\.\d{1,6}|/[1-9]\d{0,5})?", text):
        return None
    return Fraction(text)


class StreetFrame:
    """One frame of the street, drawn when it is written."""

    def __init__(self, street: Street, index: int, times: FrameTimes) -> None:
        self._street, self._index, self._times = street, index, times

    @property
    def width(self) -> int:
        """Pixels in a row."""
        return self._street.width

    @property
    def height(self) -> int:
        """Rows."""
        return self._street.height

    @property
    def times(self) -> FrameTimes:
        """When it is; its pts is the index that the street's truth goes by."""
        return self._times

    def write_to(self, planes: Planes) -> None:
        """Draw the picture into planes of exactly this frame's size."""
        self._street.render(self._index, planes)


class SyntheticSource:
    """The rendered street as a source: a file if not paced, a camera if paced."""

    def __init__(
        self,
        uri: str,
        *,
        paced: bool,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
        wall_ns: Callable[[], int] = time.time_ns,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        """Read the address; nothing is painted yet.

        Args:
            uri: `synthetic:street?` and the fields of StreetOptions.
            paced: True to give each frame at its time, False as fast as asked.
            monotonic_ns: the clock that frames are due on.
            wall_ns: the clock of capture.
            sleep: waits so many seconds; by default until then or until close.
        """
        self.options = StreetOptions.parse(uri)
        self._paced = paced
        self._closed = threading.Event()
        self._monotonic_ns, self._wall_ns = monotonic_ns, wall_ns
        self._sleep: Callable[[float], object] = sleep or self._closed.wait
        self._street: Street | None = None

    def open(self) -> SourceInfo:
        """Paint the empty street; may be called again, and then begins again at its first frame."""
        options = self.options
        width, height = options.size
        self._street = Street(options.seed, width, height, fps=options.fps, camera=options.camera)
        self._street.prepare()
        self._closed.clear()
        return SourceInfo(
            width=width,
            height=height,
            fps_declared=float(options.fps),
            codec="synthetic",
            live=self._paced,
            frames_declared=options.frames,
        )

    def frames(self) -> Iterator[StreetFrame]:
        """Yield frames until the end, or until close."""
        street = self._street
        if street is None:
            raise RuntimeError("frames() before open()")
        begin_ns, begin_wall_ns = self._monotonic_ns(), self._wall_ns()
        index = 0
        while not self._closed.is_set() and not self._is_over(index):
            if self._paced:
                index = self._due(index, begin_ns)
                if self._closed.is_set() or self._is_over(index):
                    return
                since_ns = self._since_ns(index)
                receive_ns, capture_ns = begin_ns + since_ns, begin_wall_ns + since_ns
            else:
                receive_ns, capture_ns = self._monotonic_ns(), self._wall_ns()
            times = FrameTimes(index, 1 / self.options.fps, capture_ns, receive_ns)
            yield StreetFrame(street, index, times)
            index += 1

    def close(self) -> None:
        """End frames(), also while it waits; safe to call twice."""
        self._closed.set()

    def _due(self, index: int, begin_ns: int) -> int:
        """Wait for a frame; if it is more than a period late, give the newest that is due."""
        now_ns = self._monotonic_ns()
        late_ns = now_ns - begin_ns - self._since_ns(index)
        if late_ns < 0:
            self._sleep(-late_ns / _SECOND_NS)
            return index
        if late_ns <= _SECOND_NS / self.options.fps:
            return index
        return math.floor((now_ns - begin_ns) * self.options.fps / _SECOND_NS)

    def _since_ns(self, index: int) -> int:
        return math.floor(index * _SECOND_NS / self.options.fps)

    def _is_over(self, index: int) -> bool:
        frames = self.options.frames
        return frames is not None and index >= frames
