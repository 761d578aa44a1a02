"""Turn writer options into a configured H.264, HEVC or AV1 encoder of a container; no file here.

Knows the three software encoders (x264, x265, SVT-AV1) and what each calls low delay and threads.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import av

from streamer.encoding import Codec as Codec
from streamer.errors import ConfigError

Matrix = Literal["bt601", "bt709"]

TIME_BASE = Fraction(1, 90000)
SUFFIXES = (".mp4", ".lvc")


@dataclass(frozen=True, slots=True)
class _Encoder:
    name: str
    preset: str
    crf: int
    crf_max: int
    tag: str


_ENCODERS = {
    "h264": _Encoder("libx264", preset="veryfast", crf=23, crf_max=51, tag="avc1"),
    "hevc": _Encoder("libx265", preset="superfast", crf=28, crf_max=51, tag="hvc1"),
    "av1": _Encoder("libsvtav1", preset="10", crf=35, crf_max=63, tag="av01"),
}
COLOURS = {"bt601": 6, "bt709": 1}  # the same number for matrix, primaries and transfer (H.273)


def available_codecs() -> tuple[str, ...]:
    """Name the codecs that this build of PyAV can write."""
    return tuple(name for name, e in _ENCODERS.items() if e.name in av.codecs_available)


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedOptions:
    """What the learned codec is told beside."""

    model: str = "rt-nano"
    """Name of a shipped codec, or its folder."""
    quality: int = 24
    """0 (fewest bytes) to 63; where a rate is asked for, that of the first frame."""
    kbps: float | None = None
    """Mean bit rate, in place of constant quality."""
    cap: bool = False
    """True lets kbps only lower the quality."""
    size: tuple[int, int] | None = None
    """Width and height of what is recorded, at as many pixels where pictures have another shape;
    None for that of the pictures."""
    emphasis: int = 12
    """By how much the quality is better where things happen."""
    device: str = "auto"
    relieved: bool = True
    """H.264 goes on where this codec can't keep up; False where it is written anyhow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterOptions:
    """How to encode; the same for every file of a recording."""

    live: bool
    """True encodes each frame at once (no lookahead, no B-frames), so that a kill costs half a
    second; False compresses better and may hold 40 frames back."""
    codec: Codec = "h264"
    preset: str | None = None
    """The encoder's word for speed; by default one that keeps up with a camera."""
    crf: int | None = None
    """Constant quality, lower is better; the encoder's usual number by default."""
    bitrate_kbps: int | None = None
    """Mean bit rate, in place of crf."""
    fps: float | None = None
    """About how many frames a second will come; steers key frames and rate control, not times."""
    threads: int = 1
    """Of the encoder; 0 takes one a core."""
    matrix: Matrix = "bt601"
    """Colour matrix of the planes, written into the file with limited range."""
    learned: LearnedOptions | None = None
    """For the codec "learned"."""

    @property
    def suffix(self) -> str:
        """Of the files, one of SUFFIXES."""
        return SUFFIXES[self.codec == "learned"]

    def check(self) -> None:
        """Refuse what can't work, before anything is opened.

        Raises:
            ConfigError: an unknown or missing codec, or a value outside its range.
        """
        if self.codec == "learned":
            self._check_learned()
            return
        if self.codec not in available_codecs():
            names = ", ".join(available_codecs()) or "none"
            raise ConfigError(
                f"codec must be one that this build of PyAV writes ({names}), got {self.codec!r}"
            )
        limit = _ENCODERS[self.codec].crf_max
        if self.crf is not None and not 0 <= self.crf <= limit:
            raise ConfigError(
                f"crf must be 0..{limit} for {self.codec}, got {self.crf}; "
                f"use {_ENCODERS[self.codec].crf}, and less for better pictures"
            )
        if self.bitrate_kbps is not None and self.bitrate_kbps < 1:
            raise ConfigError(f"bitrate_kbps must be at least 1, got {self.bitrate_kbps}")
        if self.crf is not None and self.bitrate_kbps is not None:
            raise ConfigError("crf and bitrate_kbps exclude each other; give one of them")
        if self.threads < 0:
            raise ConfigError(f"threads must be 0 (one a core) or more, got {self.threads}")
        if self.matrix not in COLOURS:
            raise ConfigError(f"matrix must be one of {', '.join(COLOURS)}, got {self.matrix!r}")

    def _check_learned(self) -> None:
        learned = self.learned
        if learned is None:
            raise ConfigError("codec learned needs its options; give `learned` too")
        if not 0 <= learned.quality <= 63:
            raise ConfigError(f"learned.quality must be 0..63, got {learned.quality}; use 24")
        if learned.kbps is not None and not learned.kbps > 0:
            raise ConfigError(f"learned.kbps must be above 0, got {learned.kbps}; leave it out")

    @property
    def rate(self) -> Fraction:
        """Frames a second that the encoder is told."""
        return Fraction(min(max(self.fps or 25.0, 1.0), 240.0)).limit_denominator(1001)


def add_encoder(
    container: av.container.OutputContainer, options: WriterOptions, width: int, height: int
) -> av.VideoStream:
    """Add a stream of even width and height to a container, ready to be opened."""
    encoder = _ENCODERS[options.codec]
    stream = container.add_stream(encoder.name, rate=options.rate)
    context = stream.codec_context
    context.width, context.height, context.pix_fmt = width, height, "yuv420p"
    context.time_base = stream.time_base = TIME_BASE
    context.gop_size = max(1, round(options.rate * (2 if options.live else 10)))
    context.thread_count = options.threads
    context.codec_tag = encoder.tag
    context.color_range = 1  # limited
    context.colorspace = context.color_primaries = context.color_trc = COLOURS[options.matrix]
    flags = {"preset": options.preset or encoder.preset}
    if options.bitrate_kbps is None:
        flags["crf"] = str(encoder.crf if options.crf is None else options.crf)
    else:
        context.bit_rate = options.bitrate_kbps * 1000
    context.options = flags | _delay_and_threads(encoder.name, options.live, options.threads)
    return stream


def _delay_and_threads(encoder: str, live: bool, threads: int) -> dict[str, str]:
    if encoder == "libx264":
        return {"tune": "zerolatency"} if live else {}
    if encoder == "libx265":
        pools = "none:frame-threads=1" if threads == 1 else str(threads or "*")
        params = {"x265-params": f"pools={pools}:log-level=none"}
        return params | ({"tune": "zerolatency"} if live else {})
    os.environ.setdefault("SVT_LOG", "1")  # errors only; the library has no other switch
    params_av1 = f"lp={threads}" + (":pred-struct=1:lookahead=0" if live else "")
    return {"svtav1-params": params_av1}
