"""Find the segments that a killed recorder left unfinished, and make them whole; runs at start.

Only the last segment of each camera is looked at: a killed recorder leaves no other.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import av

from streamer.sinks.fragments import cut_half_fragment, is_finished, sink_error


@dataclass(frozen=True, slots=True)
class Recovered:
    """A segment that was cut short and can be played."""

    path: Path
    playable_s: float
    """0 if the recorder died within the first half second, before anything was written."""
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
        if last is None:
            continue
        try:
            cut_short = not is_finished(last) and cut_half_fragment(last)
        except OSError as error:
            raise sink_error(last, error) from error
        if cut_short:
            found.append(_measure(last))
    return found


def _measure(path: Path) -> Recovered:
    """Count what plays, from the packets alone; damage ends it."""
    end_s, frames = 0.0, 0
    with contextlib.suppress(av.FFmpegError), av.open(str(path)) as container:
        for packet in container.demux(video=0):
            if packet.pts is not None:
                end_s = max(end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                frames += 1
    return Recovered(path, end_s, frames)
