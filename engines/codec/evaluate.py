"""Compare codecs on pictures and videos: real bytes of real files, PSNR, MS-SSIM, BD-rate; offline.

    python -m engines.codec.evaluate --frames DIR --codecs rt,x264,mjpeg --count 48 --plots OUT

Each picture is converted once to limited-range 4:2:0; every codec gets those planes and is compared
with them; a video given with --clips gives its own. Speeds are pictures in a second of processor
time, which is the speed on one core. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import bjontegaard  # type: ignore[import-untyped]
import cv2
import numpy as np

from engines.codec.base import Codec, Picture, StateT
from engines.codec.colour import planes_from_bgr
from engines.codec.dvc_runtime import DvcRuntime
from engines.codec.metrics import score
from engines.codec.peers import PEERS, Coded, run_peer
from engines.codec.player import Player, Recorder
from engines.codec.plot import draw_curves
from engines.codec.probes import read_video
from engines.codec.reader import LvcReader
from engines.codec.records import Header
from engines.codec.runtime import RtRuntime
from engines.codec.writer import LvcWriter

ZOO = Path(__file__).parent.parent / "zoo" / "codec"
RT_QUALITIES = (0, 12, 24, 36, 48, 60)
"""Evenly over all there are."""
LEARNED = ("rt", "rtintra", "dvc", "dvcintra")
"""Ours; "intra" codes each picture by itself."""
AXES = {
    "psnr_yuv_db": "PSNR 6:1:1 YUV, dB",
    "psnr_rgb_db": "PSNR RGB, dB",
    "ms_ssim": "MS-SSIM",
}
REFRESH_PERIOD = 32


@dataclass(frozen=True, slots=True)
class Point:
    """One level of one codec, as a mean over sequences."""

    level: int
    bpp: float
    psnr_yuv_db: float
    psnr_rgb_db: float
    ms_ssim: float
    encode_fps: float
    decode_fps: float


Runner = Callable[[int, list[Picture], Path], Coded]


def learned_runner(codec: Codec[StateT], intra_period: int) -> Runner:
    """Run one of our codecs through a .lvc file."""

    def run(quality: int, pictures: list[Picture], folder: Path) -> Coded:
        height, width = pictures[0].y.shape
        header = Header(
            codec.name, codec.model_hash, width, height, Fraction(1, 25), intra_period,
            codec.refresh_period,
        )  # fmt: skip
        path = folder / "learned.lvc"
        begin = time.process_time()
        with (
            LvcWriter(path, header) as writer,
            Recorder(codec, writer, quality=quality) as recorder,
        ):
            for i, picture in enumerate(pictures):
                recorder.add(picture, pts=i, capture_ns=i * 40_000_000)
        middle = time.process_time()
        with LvcReader(path) as reader:
            decoded = [p.picture for p in Player(codec, reader).pictures()]
        return Coded(decoded, path.stat().st_size, middle - begin, time.process_time() - middle)

    return run


def read_sequences(folder: Path, names: list[str] | None, count: int | None) -> list[list[Picture]]:
    """Planes of the JPEG or PNG files of each folder in `folder`, or of itself."""
    folders = sorted(f for f in folder.iterdir() if f.is_dir()) or [folder]
    sequences = []
    for one in folders:
        if names and one.name not in names:
            continue
        files = sorted(f for f in one.iterdir() if f.suffix.lower() in (".jpg", ".jpeg", ".png"))
        pictures = [cv2.imread(str(f), cv2.IMREAD_COLOR) for f in files[:count]]
        if pictures:
            sequences.append([Picture(*planes_from_bgr(np.asarray(p, np.uint8))) for p in pictures])
    if not sequences:
        raise SystemExit(f"{folder}: no sequence of .jpg or .png files; one folder for each")
    return sequences


def read_clips(texts: list[str], count: int | None) -> list[list[Picture]]:
    """Planes of videos, each PATH or PATH@FIRST_FRAME."""
    sequences = []
    for text in texts:
        path, _, first = text.partition("@")
        start = int(first or 0)
        pictures = read_video(Path(path), start + count if count else 1 << 30)[start:]
        if not pictures:
            raise SystemExit(f"{text}: no picture there; give PATH or PATH@FIRST_FRAME")
        sequences.append(pictures)
    return sequences


def measure(run: Runner, level: int, sequences: list[list[Picture]], folder: Path) -> Point:
    """One point of a curve."""
    rows = []
    encode_s = decode_s = 0.0
    for pictures in sequences:
        coded = run(level, pictures, folder)
        scores = [score(a, b) for a, b in zip(coded.pictures, pictures, strict=True)]
        bpp = 8 * coded.file_bytes / (len(pictures) * pictures[0].y.size)
        means = np.mean([[s.psnr_yuv_db, s.psnr_rgb_db, s.ms_ssim] for s in scores], axis=0)
        rows.append([bpp, *means])
        encode_s += coded.encode_s
        decode_s += coded.decode_s
    total = sum(map(len, sequences))
    bpp, yuv, rgb, similarity = (float(x) for x in np.mean(rows, axis=0))
    return Point(level, bpp, yuv, rgb, similarity, total / encode_s, total / decode_s)


def bd_rate(test: list[Point], anchor: list[Point], field: str) -> float | None:
    """Mean difference of rate at equal quality in percent; None where the curves do not overlap."""
    curves = []
    for points in (anchor, test):
        ordered = sorted(points, key=lambda p: p.bpp)
        quality = [float(getattr(p, field)) for p in ordered]
        if any(b <= a for a, b in pairwise(quality)):
            return None  # more bytes gave a worse picture: no curve to compare
        curves += [[p.bpp for p in ordered], quality]
    low, high = max(curves[1][0], curves[3][0]), min(curves[1][-1], curves[3][-1])
    if high <= low:
        return None
    value = bjontegaard.bd_rate(
        *curves, method="pchip", require_matching_points=False, min_overlap=0
    )
    return round(float(value), 2)


def _runner(name: str, options: argparse.Namespace) -> tuple[Runner, tuple[int, ...]]:
    if name in PEERS:
        peer = PEERS[name]
        return lambda level, pictures, folder: run_peer(peer, level, pictures, folder), peer.levels
    intra_period = 1 if name.endswith("intra") else options.intra_period
    if name.startswith("dvc"):
        return _dvc_runner(options, intra_period)
    codec = RtRuntime(
        options.model,
        device=options.device,
        threads=options.threads,
        precision=options.precision,
        refresh_period=REFRESH_PERIOD,
    )
    return learned_runner(codec, intra_period), RT_QUALITIES


def _dvc_runner(options: argparse.Namespace, intra_period: int) -> tuple[Runner, tuple[int, ...]]:
    """One model folder is one level of dvc."""
    folders = sorted(f for f in options.dvc_models.glob("*") if f.is_dir())
    if not folders:
        raise SystemExit(f"{options.dvc_models}: no model folders; make them with dvc_export.py")

    def run(level: int, pictures: list[Picture], folder: Path) -> Coded:
        codec = DvcRuntime(
            folders[level],
            device=options.device,
            threads=options.threads,
            precision=options.precision,
        )
        return learned_runner(codec, intra_period)(0, pictures, folder)

    return run, tuple(range(len(folders)))


def main() -> None:
    """Measure the asked-for codecs and print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=Path, help="one folder a sequence")
    parser.add_argument("--clips", nargs="+", default=[], help="videos: PATH or PATH@FIRST_FRAME")
    parser.add_argument("--sequences", help="names of folders, with commas; all by default")
    parser.add_argument("--codecs", default="rt,x264,x264intra,mjpeg")
    parser.add_argument("--count", type=int, help="frames of each sequence; all by default")
    parser.add_argument("--model", type=Path, default=ZOO / "rt-nano", help="of rt")
    parser.add_argument("--dvc-models", type=Path, default=ZOO / "dvc", help="one folder a lambda")
    parser.add_argument(
        "--intra-period",
        type=int,
        default=96,
        help="of rt and dvc; 96 as recordings have; the others use 12",
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", help="of the engine, such as bf16")
    parser.add_argument("--plots", type=Path, help="folder for curves as PNG")
    parser.add_argument("--json-out", type=Path, help="also write the last line to this file")
    options = parser.parse_args()
    if options.frames is None and not options.clips:
        parser.error("give --frames, --clips or both")
    names = options.codecs.split(",")
    unknown = sorted(set(names) - PEERS.keys() - set(LEARNED))
    if unknown:
        known = ", ".join((*LEARNED, *PEERS))
        parser.error(f"--codecs must be of {known}, got {', '.join(unknown)}")
    picked = options.sequences.split(",") if options.sequences else None
    sequences = read_clips(options.clips, options.count)
    if options.frames is not None:
        sequences += read_sequences(options.frames, picked, options.count)
    points: dict[str, list[Point]] = {}
    print("codec       level     bpp  PSNR yuv  PSNR rgb  MS-SSIM   enc fps   dec fps")
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            run, levels = _runner(name, options)
            points[name] = []
            for level in levels:
                point = measure(run, level, sequences, Path(folder))
                points[name].append(point)
                print(
                    f"{name:<11} {level:>5} {point.bpp:>7.4f} {point.psnr_yuv_db:>9.3f} "
                    f"{point.psnr_rgb_db:>9.3f} {point.ms_ssim:>8.5f} {point.encode_fps:>9.1f} "
                    f"{point.decode_fps:>9.1f}",
                    flush=True,
                )
    if options.plots:
        plot(points, options.plots)
    line = json.dumps(report(points))
    if options.json_out:
        options.json_out.write_text(line + "\n")
    print(line)


def plot(points: dict[str, list[Point]], folder: Path) -> None:
    """One diagram for each measure."""
    for field, label in AXES.items():
        curves = {name: [(p.bpp, float(getattr(p, field))) for p in of]
                  for name, of in points.items()}  # fmt: skip
        draw_curves(curves, label=label, path=folder / f"{field}.png")


def machine() -> dict[str, object]:
    """What the speeds were measured on."""
    models = (
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    return {"cpu": next(models, platform.machine()), "cores": len(os.sched_getaffinity(0)),
            "load_1min": round(os.getloadavg()[0], 2)}  # fmt: skip


def report(points: dict[str, list[Point]]) -> dict[str, object]:
    """BD-rates of every codec against every other, all points, and median speeds."""

    def rates(field: str) -> dict[str, dict[str, float | None]]:
        return {
            a: {b: bd_rate(points[a], points[b], field) for b in points if b != a} for a in points
        }

    return {
        "bd_rate_psnr": rates("psnr_yuv_db"),
        "bd_rate_psnr_rgb": rates("psnr_rgb_db"),
        "bd_rate_ms_ssim": rates("ms_ssim"),
        "points": {
            name: [{k: round(v, 5) for k, v in asdict(p).items()} for p in of]
            for name, of in points.items()
        },
        "fps": {
            name: {
                "encode": round(float(np.median([p.encode_fps for p in of])), 1),
                "decode": round(float(np.median([p.decode_fps for p in of])), 1),
            }
            for name, of in points.items()
        },
        "machine": machine(),
    }


if __name__ == "__main__":
    main()
