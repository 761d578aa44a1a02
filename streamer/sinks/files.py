"""Begin a file with the writer that its codec needs; networks are only loaded when asked for."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

from streamer.sinks.base import PictureFile
from streamer.sinks.encoder import LearnedOptions, WriterOptions
from streamer.sinks.mp4 import Mp4Writer


def open_file(
    path: Path,
    options: WriterOptions,
    *,
    width: int,
    height: int,
    start_utc_ns: int | None = None,
    start_pts_s: Fraction | None = None,
    overwrite: bool = False,
) -> PictureFile:
    """Begin one file; arguments and errors as for Mp4Writer and LvcFile."""
    if options.codec == "learned":
        from streamer.sinks.learned import LvcFile  # networks load nothing where none is used

        return LvcFile(path, options, width=width, height=height, overwrite=overwrite)
    return Mp4Writer(
        path,
        options,
        width=width,
        height=height,
        start_utc_ns=start_utc_ns,
        start_pts_s=start_pts_s,
        overwrite=overwrite,
    )


def load_codec(learned: LearnedOptions, *, threads: int) -> None:
    """See learned.load_codec."""
    from streamer.sinks import learned as module  # networks load nothing where none is used

    module.load_codec(learned, threads=threads)


def sustained_size(
    learned: LearnedOptions, width: int, height: int, *, fps: float, threads: int
) -> tuple[int, int] | None:
    """See learned.sustained_size."""
    from streamer.sinks import learned as module  # networks load nothing where none is used

    return module.sustained_size(learned, width, height, fps=fps, threads=threads)
