"""Cut a clip or a picture of one moment out of a camera's segments, without encoding the clip anew.

Knows no rule and no event. What was hidden or drawn when the segments were written stays so in what
is cut from them. Reads files that are still being written; runs in a thread of the rules process.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av

from streamer.errors import SinkError
from streamer.sinks.encoder import TIME_BASE
from streamer.sinks.fragments import sink_error

_STAMP = re.compile(r"_(\d{8}T\d{6})\.(\d{3})Z(?:_\d+)?$")
_START_UTC = re.compile(r"start_utc=(\S+)\.(\d{9})Z")
_START_PTS = re.compile(r"start_pts_s=(-?[\d.]+)")
_SLACK_S = 0.002
"""Times in events and file names are rounded to less than this."""
_JOINT_S = 0.2
"""Two segments may overlap by so much, as their last frame's duration is a guess."""
_SEEK_S = 120.0
"""A shorter way is read, for a seek in a file without its index is a matter of luck."""
_NS = 10**9


@dataclass(frozen=True, slots=True)
class Moment:
    """When something happened, in both clocks of its camera."""

    capture_ns: int
    pts_s: float | None


@dataclass(frozen=True, slots=True)
class Clip:
    """What was cut."""

    path: Path
    start_ns: int
    """Wall clock of capture of its first frame."""
    duration_s: float
    moment_s: float
    """Where in the clip the moment is."""
    frames: int
    size_bytes: int
    complete: bool
    """It begins no later and ends no earlier than was asked for."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The picture that was taken."""

    path: Path
    frame_ns: int
    """Wall clock of its capture."""
    width: int
    height: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class _Segment:
    path: Path
    start_ns: int
    start_pts_s: float | None
    codec: tuple[str, int, int, bytes]
    at_s: float = 0.0
    """Where it begins, counted from the segment that holds the moment."""


def cut_clip(
    folder: Path,
    camera: str,
    moment: Moment,
    *,
    before_s: float,
    after_s: float,
    path: Path,
    final: bool,
) -> Clip | None:
    """Cut from the key frame at or before the begin to the last frame before the end.

    Args:
        folder: of all recordings, as given to SegmentRecorder.
        camera: name.
        moment: what it is about.
        before_s: media time before it.
        after_s: media time after it.
        path: of the clip; replaced if it is there.
        final: True takes what there is; False gives None if the end is not recorded yet.

    Raises:
        SinkError: nothing of it is recorded, or the clip can't be written.
    """
    segments = _around(folder, camera, moment, before_s, after_s)
    if not segments:
        if final:
            raise _missing(folder / camera)
        return None
    moment_s = _place(moment, segments)
    begin_s, end_s = moment_s - before_s, moment_s + after_s
    packets: list[tuple[float, av.Packet]] = []
    recorded_to_s = float("-inf")
    for segment in segments:
        for at_s, packet in _packets(segment, begin_s):
            recorded_to_s = max(recorded_to_s, at_s + float((packet.duration or 0) * TIME_BASE))
            if packet.is_keyframe and at_s <= begin_s + _SLACK_S:
                packets.clear()
            if segment.at_s + float(packet.dts * TIME_BASE) <= end_s + _SLACK_S:
                packets.append((at_s, packet))
    if not final and recorded_to_s < end_s:
        return None
    if not packets:
        raise _missing(folder / camera)
    first_s = packets[0][0]
    last_s = max(at_s + float((packet.duration or 0) * TIME_BASE) for at_s, packet in packets)
    home = next(each for each in reversed(segments) if each.at_s <= first_s + _SLACK_S)
    _write(path, segments[0], packets)
    return Clip(
        path,
        start_ns=home.start_ns + round((first_s - home.at_s) * _NS),
        duration_s=round(last_s - first_s, 6),
        moment_s=round(moment_s - first_s, 6),
        frames=len(packets),
        size_bytes=path.stat().st_size,
        complete=first_s <= begin_s + _SLACK_S and recorded_to_s >= end_s - _SLACK_S,
    )


def take_snapshot(
    folder: Path, camera: str, moment: Moment, *, path: Path, final: bool
) -> Snapshot | None:
    """Decode the frame that was on at a moment and write it as a JPEG; arguments as of cut_clip.

    Raises:
        SinkError: the moment is not recorded, or the picture can't be written.
    """
    segments = _around(folder, camera, moment, 0.0, 0.0)
    if not segments:
        if final:
            raise _missing(folder / camera)
        return None
    moment_s = _place(moment, segments)
    segment = next(each for each in reversed(segments) if each.at_s <= moment_s + _SLACK_S)
    found: tuple[float, av.VideoFrame] | None = None
    over = False
    for at_s, frame in _frames(segment, moment_s):
        over = at_s > moment_s + _SLACK_S
        if over and found is not None:
            break
        found = (at_s, frame)
    if found is None or not (final or over or found[0] >= moment_s - _SLACK_S):
        if final:
            raise _missing(segment.path)
        return None
    data = _jpeg(found[1])
    try:
        _replace(path, data)
    except OSError as error:
        raise sink_error(path, error) from error
    return Snapshot(
        path,
        frame_ns=segment.start_ns + round((found[0] - segment.at_s) * _NS),
        width=found[1].width,
        height=found[1].height,
        size_bytes=len(data),
    )


# Which segments.


def _around(
    folder: Path, camera: str, moment: Moment, before_s: float, after_s: float
) -> list[_Segment]:
    """The segments of one timeline that touch the span, placed on it."""
    names = _listed(folder / camera, moment.capture_ns, before_s, after_s)
    slack_ns = round(_SLACK_S * _NS)
    home = sum(start_ns <= moment.capture_ns + slack_ns for start_ns, _ in names) - 1
    anchor = _open(names[home][1]) if home >= 0 else None
    if anchor is None:
        return []
    segments = [anchor]
    moment_s = _place(moment, segments)
    for _, path in reversed(names[:home]):
        if segments[0].at_s <= moment_s - before_s:
            break
        earlier = _open(path)
        gap_s = None if earlier is None else _distance(earlier, segments[0])
        if earlier is None or gap_s is None:
            break
        segments.insert(0, replace(earlier, at_s=segments[0].at_s - gap_s))
    for _, path in names[home + 1 :]:
        later = _open(path)
        gap_s = None if later is None else _distance(segments[-1], later)
        if later is None or gap_s is None or segments[-1].at_s + gap_s > moment_s + after_s:
            break
        segments.append(replace(later, at_s=segments[-1].at_s + gap_s))
    return segments


def _listed(
    folder: Path, capture_ns: int, before_s: float, after_s: float
) -> list[tuple[int, Path]]:
    """Segments by time, of the days that matter."""
    moment = datetime.fromtimestamp(capture_ns / _NS, timezone.utc)
    day, last = moment - timedelta(days=1, seconds=before_s), moment + timedelta(seconds=after_s)
    found = []
    while day.date() <= last.date():
        for path in (folder / f"{day:%Y-%m-%d}").glob("*.mp4"):
            stamp = _STAMP.search(path.stem)
            if stamp:
                start = datetime.strptime(stamp[1] + "+0000", "%Y%m%dT%H%M%S%z")
                found.append((int(start.timestamp()) * _NS + int(stamp[2]) * 10**6, path))
        day += timedelta(days=1)
    return sorted(found)


def _open(path: Path) -> _Segment | None:
    """What a segment says of itself; None as long as it says nothing."""
    try:
        with av.open(str(path)) as container:
            start = _START_UTC.search(container.metadata.get("comment", ""))
            pts = _START_PTS.search(container.metadata.get("description", ""))
            stream = container.streams.video[0]
            context = stream.codec_context
            codec = (context.name, stream.width, stream.height, bytes(context.extradata or b""))
    except (av.FFmpegError, IndexError):
        return None
    if start is None:
        return None
    seconds = datetime.strptime(start[1] + "+0000", "%Y-%m-%dT%H:%M:%S%z").timestamp()
    return _Segment(path, int(seconds) * _NS + int(start[2]), float(pts[1]) if pts else None, codec)


def _distance(one: _Segment, other: _Segment) -> float | None:
    """Media time from the begin of a segment to that of the next; None if they don't belong."""
    if one.codec != other.codec:
        return None
    gap_s = -1.0
    if one.start_pts_s is not None and other.start_pts_s is not None:
        gap_s = other.start_pts_s - one.start_pts_s
    if gap_s <= 0:  # the media clock began anew: another run
        gap_s = (other.start_ns - one.start_ns) / _NS
    ends_s = [at_s + float((packet.duration or 0) * TIME_BASE) for at_s, packet in _packets(one)]
    return gap_s if gap_s > 0 and max(ends_s, default=0.0) - one.at_s <= gap_s + _JOINT_S else None


def _place(moment: Moment, segments: list[_Segment]) -> float:
    """The moment on the timeline of the segment that holds it."""
    anchor = next(each for each in segments if each.at_s == 0.0)
    if moment.pts_s is not None and anchor.start_pts_s is not None:
        return moment.pts_s - anchor.start_pts_s
    return (moment.capture_ns - anchor.start_ns) / _NS


def _missing(where: Path) -> SinkError:
    return SinkError(f"{where}: the moment is not recorded; see recording.failed events")


# Reading and writing.


def _packets(segment: _Segment, from_s: float = float("-inf")) -> Iterator[tuple[float, av.Packet]]:
    """Packets and their place on the timeline; damage and a half-written end just end it."""
    with contextlib.suppress(av.FFmpegError), av.open(str(segment.path)) as container:
        _seek(container, from_s - segment.at_s)
        for packet in container.demux(video=0):
            if packet.pts is not None and packet.dts is not None:
                yield segment.at_s + float(packet.pts * packet.time_base), packet


def _frames(segment: _Segment, from_s: float) -> Iterator[tuple[float, av.VideoFrame]]:
    with contextlib.suppress(av.FFmpegError), av.open(str(segment.path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        _seek(container, from_s - segment.at_s)
        for frame in container.decode(video=0):
            if frame.pts is not None:
                yield segment.at_s + float(frame.pts * frame.time_base), frame


def _seek(container: av.container.InputContainer, to_s: float) -> None:
    if to_s > _SEEK_S:
        with contextlib.suppress(av.FFmpegError):
            container.seek(int((to_s - _SEEK_S / 2) * av.time_base), backward=True)


def _write(path: Path, like: _Segment, packets: list[tuple[float, av.Packet]]) -> None:
    """Mux packets on one timeline that begins at 0."""
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            av.open(str(like.path)) as source,
            av.open(str(part), "w", format="mp4", options={"movflags": "faststart"}) as out,
        ):
            stream = out.add_stream_from_template(source.streams.video[0], opaque=True)
            for (at_s, packet), dts in zip(packets, _decode_times(packets), strict=True):
                packet.pts = _ticks(at_s - packets[0][0])
                packet.dts = min(dts, packet.pts)
                packet.time_base, packet.stream = TIME_BASE, stream
                out.mux(packet)
        part.replace(path)
    except (OSError, av.FFmpegError) as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        cause = error if isinstance(error, OSError) else OSError(error.errno, str(error))
        raise sink_error(path, cause) from error


def _decode_times(packets: list[tuple[float, av.Packet]]) -> list[int]:
    """Decoding times on the clip's timeline, rising also from one segment to the next."""
    times = [_ticks(at_s - packets[0][0]) - (packet.pts - packet.dts) for at_s, packet in packets]
    for index, (before, now) in enumerate(pairwise(times), 1):
        times[index] = max(now, before + 1, times[index - 1] + 1)
    return times


def _ticks(seconds: float) -> int:
    return round(Fraction(seconds) / TIME_BASE)


def _jpeg(frame: av.VideoFrame) -> bytes:
    context = av.CodecContext.create("mjpeg", "w")
    context.width, context.height, context.pix_fmt = frame.width, frame.height, "yuvj420p"
    context.time_base = TIME_BASE
    context.options = {"qmin": "2", "qmax": "4"}
    still = frame.reformat(format="yuvj420p", src_color_range=1, dst_color_range=2)
    still.pts, still.time_base = 0, TIME_BASE
    return b"".join(bytes(packet) for packet in (*context.encode(still), *context.encode(None)))


def _replace(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    part.replace(path)
