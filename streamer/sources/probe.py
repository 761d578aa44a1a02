"""Turn a URI into a description of its video, partly measured; runs in the CLI.

Knows no queue. Looks at packets for a few seconds and decodes none of them.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import av

from streamer.sources.arrival import producer_time_ns
from streamer.sources.base import SourceInfo
from streamer.sources.container import ContainerSource
from streamer.sources.hardware import decoder_devices, why_not
from streamer.sources.options import SourceOptions
from streamer.sources.redact import redact
from streamer.sources.uri import open_source


@dataclass(frozen=True, slots=True)
class HardwareDecoder:
    """A kind of device that this libav build can decode the codec on."""

    kind: str
    missing: str | None
    """Why it can't be used here; None if it seems to be there."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What the packets themselves say."""

    packets: int
    duration_s: float | None
    """Media time that they span; None without timestamps."""
    fps: float | None
    bit_rate_bps: float | None
    key_frames: int
    gop_frames: int | None
    """Median distance of key frames; None if fewer than two were seen."""
    gop_frames_longest: int
    """Longest run seen from a key frame to the next, or to the end of the measurement."""
    reordered: bool
    """True if pictures are sent in another order than they are shown in."""
    wall_clock: bool
    """True if the sender says when a picture was captured (RTCP sender reports)."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A source and its video stream."""

    uri: str
    """Without its credentials."""
    info: SourceInfo
    container: str | None = None
    """Name of libav's demuxer; None and the rest too for pictures and rendered scenes."""
    profile: str | None = None
    pixel_format: str | None = None
    b_frames: bool | None = None
    time_base: Fraction | None = None
    start_pts: int | None = None
    duration_s: float | None = None
    audio: tuple[str, ...] = ()
    """Codecs of the audio streams."""
    hardware: tuple[HardwareDecoder, ...] = ()
    measured: Measured | None = None


def probe(
    uri: str,
    *,
    options: SourceOptions | None = None,
    duration_s: float = 4.0,
    max_packets: int = 1000,
) -> Probe:
    """Open a source, look at its packets for a while, and close it.

    Args:
        uri: as for open_source.
        options: as for open_source.
        duration_s: look no longer than this,
        max_packets: and at no more than these.

    Raises:
        ConfigError: the URI is none.
        SourceError: it can't be opened or read.
    """
    source = open_source(uri, options=options)
    try:
        info = source.open()
        if not isinstance(source, ContainerSource):
            return Probe(redact(uri), info)
        in_time = _until(source.packets(), time.monotonic() + duration_s)
        packets = list(itertools.islice(in_time, max_packets))
        return _describe(uri, info, source, packets)
    finally:
        source.close()


def _until(packets: Iterator[av.Packet], deadline: float) -> Iterator[av.Packet]:
    for packet in packets:
        if not packet.size:
            return  # it flushes the decoder
        yield packet
        if time.monotonic() > deadline:
            return


def _describe(
    uri: str, info: SourceInfo, source: ContainerSource, packets: Sequence[av.Packet]
) -> Probe:
    container, stream = source.opened()
    context = stream.codec_context
    measured = _measure(packets)
    return Probe(
        uri=redact(uri),
        info=info,
        container=container.format.name,
        profile=context.profile,
        pixel_format=context.pix_fmt,
        b_frames=bool(context.has_b_frames) or measured.reordered,
        time_base=stream.time_base,
        start_pts=stream.start_time,
        duration_s=container.duration / av.time_base if container.duration else None,
        audio=tuple(
            s.codec_context.name if s.codec_context else "?" for s in container.streams.audio
        ),
        hardware=tuple(HardwareDecoder(k, why_not(k)) for k in decoder_devices(context.name)),
        measured=measured,
    )


def _measure(packets: Sequence[av.Packet]) -> Measured:
    times = [packet.pts * packet.time_base for packet in packets if packet.pts is not None]
    span = max(times) - min(times) if len(times) > 1 else Fraction(0)
    frame = span / (len(times) - 1) if span else Fraction(0)
    keys = [index for index, packet in enumerate(packets) if packet.is_keyframe]
    gops = [later - earlier for earlier, later in itertools.pairwise(keys)]
    tail = len(packets) - keys[-1] if keys else len(packets)
    size_bits = 8 * sum(packet.size for packet in packets)
    return Measured(
        packets=len(packets),
        duration_s=float(span + frame) if span else None,
        fps=float(1 / frame) if span else None,
        bit_rate_bps=float(size_bits / (span + frame)) if span else None,
        key_frames=len(keys),
        gop_frames=round(statistics.median(gops)) if gops else None,
        gop_frames_longest=max([*gops, tail]),
        reordered=any(later < earlier for earlier, later in itertools.pairwise(times)),
        wall_clock=any(producer_time_ns(packet) is not None for packet in packets),
    )
