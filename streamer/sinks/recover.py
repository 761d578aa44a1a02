"""Find the segments that a killed recorder left unfinished, and make them whole; runs at start.

Only the last segment of each camera is looked at: a killed recorder leaves no other.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av

from streamer.errors import SinkError
from streamer.sinks.fragments import cut_half_fragment, is_finished, sink_error


@dataclass(frozen=True, slots=True)
class Recovered:
    """A segment that was cut short and can be played."""

    path: Path
    playable_s: float
    """0 if the recorder died within the first part, before anything was written."""
    frames: int


def recover(folder: Path) -> list[Recovered]:
    """Check the last segment of each camera, and cut a half-written end off.

    Args:
        folder: of all recordings, as given to SegmentRecorder; nothing to do if it isn't there.

    Raises:
        SinkError: a file can't be read or written.
    """
    if not folder.is_dir():
        return []
    found = []
    for camera in sorted(path for path in folder.iterdir() if path.is_dir()):
        last = max(camera.glob(f"*/{camera.name}_*.mp4"), default=None)
        try:
            if last is not None and not is_finished(last) and cut_half_fragment(last):
                found.append(_measure(last))
        except OSError as error:
            raise sink_error(last or camera, error) from error
    return found


def _measure(path: Path) -> Recovered:
    """Count what plays, from the packets alone."""
    if not path.stat().st_size:
        return Recovered(path, 0.0, 0)
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            ends = [p.pts + (p.duration or 0) for p in container.demux(stream) if p.pts is not None]
            return Recovered(path, float(max(ends, default=0) * stream.time_base), len(ends))
    except av.FFmpegError as error:
        raise SinkError(f"{path}: {error}; move this file away") from error
