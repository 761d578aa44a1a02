"""`streamer codec`: write, read, look at and compare recordings of the learned codec."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines.codec.colour import bgr_from_planes
from engines.codec.errors import BitstreamError
from engines.codec.metrics import Score, score
from engines.codec.reader import LvcReader
from engines.codec.records import RecordType
from engines.errors import ModelError
from streamer.cli.main import make_parser
from streamer.errors import ConfigError, SourceError
from streamer.overlay import letterbox
from streamer.planes import Planes
from streamer.sinks.encoder import LearnedOptions, WriterOptions
from streamer.sinks.single import SingleFile
from streamer.sinks.still import write_png
from streamer.sources.base import Source, SourceFrame, SourceInfo
from streamer.sources.learned import LvcSource
from streamer.sources.uri import open_source

_KEPT = 20
"""Frames that the picture of a comparison is chosen from."""


def main(arguments: Sequence[str]) -> int:
    """Run one of the four tools."""
    parser = make_parser("codec")
    tools = parser.add_subparsers(dest="tool", required=True, metavar="TOOL")
    _add_encode(tools.add_parser("encode", help="compress a video into a .lvc file"))
    _add_decode(tools.add_parser("decode", help="turn a .lvc file into .mp4, or .yuv (I420)"))
    _add_info(tools.add_parser("info", help="say what a .lvc file holds"))
    _add_compare(tools.add_parser("compare", help="measure recordings against their source"))
    options = parser.parse_args(arguments)
    try:
        code: int = options.run(options)
    except ModelError as error:
        raise ConfigError(str(error)) from error
    return code


def _add_encode(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="anything that `streamer run` takes")
    parser.add_argument("out", type=Path, help="ends in .lvc; is overwritten")
    parser.add_argument("--model", default="rt-nano", help="name or folder; default rt-nano")
    parser.add_argument("--quality", type=int, default=24, help="0 to 63; default 24")
    parser.add_argument("--kbps", type=float, help="mean bit rate, in place of --quality")
    parser.add_argument("--size", metavar="WxH", help="other shapes keep theirs; default as it is")
    parser.add_argument("--device", default="auto", help="auto (default), cpu or cuda:0")
    parser.set_defaults(run=_encode)


def _add_decode(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="a .lvc file")
    parser.add_argument("out", type=Path, help=".mp4 (H.264, crf 14) or .yuv; is overwritten")
    parser.add_argument("--model", help="folder of the codec, where it is not a shipped one")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda:0")
    parser.set_defaults(run=_decode)


def _add_info(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="a .lvc file")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.set_defaults(run=_info)


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recordings", nargs="+", help="files of the same pictures, of any codec")
    parser.add_argument("--reference", required=True, help="what they were made of")
    parser.add_argument("--picture", type=Path, help="PNG: reference, recordings, differences x8")
    parser.add_argument("--model", help="folder of the codec of .lvc files")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.set_defaults(run=_compare)


def _encode(options: argparse.Namespace) -> int:
    learned = LearnedOptions(
        model=options.model,
        quality=options.quality,
        kbps=options.kbps,
        size=_size(options.size),
        device=options.device,
    )
    source = open_source(options.source)
    inputs = (Path(options.source),)
    with closing(source):
        info = source.open()
        _write(source, info, options.out, learned=learned, inputs=inputs)
    print(_summary(options.out))
    return 0


def _decode(options: argparse.Namespace) -> int:
    source = LvcSource(options.source, model=options.model, device=options.device)
    with closing(source):
        info = source.open()
        if options.out.suffix.lower() == ".yuv":
            _write_raw(_frames(source, options.source), info, options.out)
        else:
            _write(source, info, options.out, learned=None, inputs=(options.source,))
        if source.statistics.corrupt:
            print(f"streamer: {source.statistics.corrupt} damaged parts left out", file=sys.stderr)
    return 0


def _write(
    source: Source,
    info: SourceInfo,
    out: Path,
    *,
    learned: LearnedOptions | None,
    inputs: tuple[Path, ...],
) -> None:
    options = WriterOptions(
        live=False,
        codec="learned" if learned else "h264",
        crf=None if learned else 14,
        fps=info.fps_declared,
        matrix=info.matrix,
        threads=0 if not learned else 1,
        learned=learned,
    )
    frames = _frames(source, inputs[0])
    file = SingleFile(out, options, overwrite=True, inputs=inputs)
    try:
        for frame in frames:
            canvas = file.blank(frame.width, frame.height)
            frame.write_to(canvas.planes)
            file.write(canvas, frame.times)
    finally:
        file.close()


def _frames(source: Source, name: Path) -> Iterator[SourceFrame]:
    """All frames of an open source; one without any is refused before an output is touched."""
    frames = source.frames()
    first = next(frames, None)
    if first is None:
        raise SourceError(
            f"{name}: holds no frame that can be read; nothing was written, record it again",
            reason="ended",
            permanent=True,
        )
    return chain((first,), frames)


def _write_raw(frames: Iterator[SourceFrame], info: SourceInfo, out: Path) -> None:
    """All frames in the size of the header, since nothing in the file would tell another."""
    with out.open("wb") as file:
        for frame in frames:
            planes = _planes(frame, info.width, info.height)
            for plane in (planes.y, planes.u, planes.v):
                file.write(plane.tobytes())


def _info(options: argparse.Namespace) -> int:
    try:
        found = describe(options.source)
    except BitstreamError as error:
        raise SourceError(str(error), reason="corrupt", permanent=True) from error
    except OSError as error:
        raise SourceError(
            f"{options.source}: {error.strerror}; check the path", reason="io", permanent=True
        ) from error
    if options.json:
        print(json.dumps(found))
    else:
        print("\n".join(f"{name:12} {value}" for name, value in found.items()))
    return 0


def describe(path: Path) -> dict[str, object]:
    """What a .lvc file holds, as its records say; no network is loaded.

    Raises:
        BitstreamError: it is no such file.
        OSError: it can't be read.
    """
    with LvcReader(path) as reader:
        header = reader.header
        frames = [record for record in reader.records() if record.is_frame]
        others = [record.geometry for record in frames if record.geometry is not None]
        sizes = dict.fromkeys([(header.width, header.height), *others])
        whole = reader.has_index
        damages = len(reader.damages)
    seconds = float((frames[-1].pts - frames[0].pts) * header.time_base) if frames else 0.0
    size_bytes = path.stat().st_size
    return {
        "codec": header.codec,
        "model": header.model_hash.hex()[:12],
        "picture": ", ".join(f"{width}x{height}" for width, height in sizes),
        "frames": len(frames),
        "intra": sum(record.type is RecordType.INTRA for record in frames),
        "seconds": round(seconds, 3),
        "bytes": size_bytes,
        "kbps": round(size_bytes / 125 / seconds, 1) if seconds else None,
        "quality": sorted({record.quality for record in frames}),
        "whole": whole,
        "damages": damages,
    }


def _compare(options: argparse.Namespace) -> int:
    files = [_open(name, options.model) for name in (options.reference, *options.recordings)]
    try:
        for source in files:
            source.open()
        found = compare(files[0], files[1:], picture=options.picture)
    finally:
        for source in files:
            source.close()
    rows = []
    for name, means in zip(options.recordings, found.means, strict=True):
        kbps = Path(name).stat().st_size / 125 / found.seconds if found.seconds else 0.0
        rows.append({"recording": name, "kbps": round(kbps, 1), **means})
    if options.json:
        print(json.dumps({"frames": found.frames, "recordings": rows}))
        return 0
    print(f"{found.frames} frames")
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    return 0


@dataclass(frozen=True, slots=True)
class Compared:
    """Recordings against what they were made of."""

    frames: int
    seconds: float
    means: list[dict[str, float]]
    """psnr_yuv_db, psnr_rgb_db and ms_ssim of each recording, at the size of the reference."""


def compare(reference: Source, recordings: Sequence[Source], *, picture: Path | None) -> Compared:
    """Measure open sources, frame by frame, as far as the shortest goes.

    Args:
        reference: what the recordings were made of.
        recordings: of any size; they are scaled to that of the reference.
        picture: PNG of the middle frame: the reference, then each recording over its difference.

    Raises:
        ConfigError: there is no frame that all have.
    """
    scores: list[list[Score]] = [[] for _ in recordings]
    shown: list[list[Planes]] = []
    times: list[Fraction] = []
    for frames in zip(reference.frames(), *(r.frames() for r in recordings), strict=False):
        truth, *others = (_planes(frame, frames[0].width, frames[0].height) for frame in frames)
        times.append(frames[0].times.pts * frames[0].times.time_base)
        for row, planes in zip(scores, others, strict=True):
            row.append(score(planes, truth))
        shown = [*shown[-_KEPT:], [truth, *others]]
    if not times:
        raise ConfigError("compare: the files have no frame in common; check that they play")
    if picture is not None:
        write_png(picture, _sheet(shown[len(shown) // 2]))
    seconds = float(times[-1] - times[0])
    return Compared(len(times), seconds, [_means(row) for row in scores])


def _means(scores: list[Score]) -> dict[str, float]:
    names = ("psnr_yuv_db", "psnr_rgb_db", "ms_ssim")
    return {
        name: round(sum(getattr(one, name) for one in scores) / len(scores), 4) for name in names
    }


def _planes(frame: SourceFrame, width: int, height: int) -> Planes:
    planes = Planes.empty(frame.width, frame.height)
    frame.write_to(planes)
    if (frame.width, frame.height) == (width, height):
        return planes
    scaled = Planes.empty(width, height)
    letterbox(planes, scaled)
    return scaled


def _sheet(pictures: list[Planes]) -> NDArray[np.uint8]:
    """Above the pictures side by side, below eight times their differences to the first."""
    views = [bgr_from_planes(planes.y, planes.u, planes.v) for planes in pictures]
    apart = [
        np.clip(128 + 8 * (view.astype(np.int16) - views[0]), 0, 255).astype(np.uint8)
        for view in views
    ]
    return np.vstack((np.hstack(views), np.hstack(apart)))


def _open(name: str, model: str | None) -> Source:
    return LvcSource(Path(name), model=model) if name.endswith(".lvc") else open_source(name)


def _summary(path: Path) -> str:
    found = describe(path)
    return f"{path}: {found['frames']} frames of {found['picture']}, {found['kbps']} kbit/s"


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise ConfigError(f"--size: must be WIDTHxHEIGHT, got {text!r}; use 424x240")
    return int(width), int(height)
