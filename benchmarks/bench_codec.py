"""Measure the learned codec: speed, equal symbols on every engine, drift, damage.

Regime: frames of the crowd video, scaled; files are written and read as a recording is, intra
period 96; two threads for the network, the entropy coder and the file beside it.
Metric: frames a second, from the median time of a frame (a start-up of four left out); frames whose
symbols differ between engines; PSNR lost over 96 frames by decoding on another engine; attempts at
every truncation and at random corruption that end neither in frames nor in a clear error.
Ceiling: ms of processor time a frame stands beside each speed, which a machine busy with other
work does not change.
Command: python -m benchmarks.bench_codec --model engines/zoo/codec/rt-nano
On a GPU: python -m benchmarks.bench_codec --model engines/zoo/codec/rt-small --parts speed \
    --device tensorrt:cuda:0 --precisions fp16 --sizes 1920x1080
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from fractions import Fraction
from itertools import zip_longest
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks import report
from benchmarks.codec import drift, fuzz
from benchmarks.running import CROWD
from engines.codec.base import U8, Picture
from engines.codec.player import Player, Recorder
from engines.codec.probes import read_video
from engines.codec.reader import LvcReader
from engines.codec.records import Header
from engines.codec.runtime import RtRuntime
from engines.codec.writer import LvcWriter

QUALITY, INTRA_PERIOD, WARM_UP = 24, 96, 4
BOUNDS = {"424x240": (20, 40), "768x432": (6, 15), "1920x1080": (60, 200)}
"""Frames a second that a size must reach, and should."""
FUZZ_SIZES, FUZZ_FRAMES = ((96, 64), (64, 48)), 4
DRIFT_SIZE, DRIFT_FRAMES = (256, 144), 96
PARTS = ("speed", "drift", "fuzz")


def scaled(pictures: Sequence[Picture], width: int, height: int) -> list[Picture]:
    """Pictures of another size."""

    def scale(plane: U8, divisor: int) -> U8:
        size = (-(-width // divisor), -(-height // divisor))
        return np.asarray(cv2.resize(plane, size, interpolation=cv2.INTER_AREA), np.uint8)

    return [Picture(scale(p.y, 1), scale(p.u, 2), scale(p.v, 2)) for p in pictures]


def speed(codec: RtRuntime, pictures: Sequence[Picture], path: Path) -> dict[str, Any]:
    """Write and play one file."""
    height, width = pictures[0].y.shape
    header = Header(
        codec.name, codec.model_hash, width, height, Fraction(1, 25), INTRA_PERIOD,
        codec.refresh_period,
    )  # fmt: skip
    encode = _Stopwatch()
    with (
        LvcWriter(path, header) as writer,
        Recorder(codec, writer, quality=QUALITY) as recorder,
    ):
        for number, (picture, following) in enumerate(zip_longest(pictures, pictures[1:])):
            recorder.add(picture, pts=number, capture_ns=number, following=following)
            encode.lap()
    decode = _Stopwatch()
    with LvcReader(path) as reader:
        for _ in Player(codec, reader).pictures():
            decode.lap()
    kbps = path.stat().st_size * 8 * 25 / len(pictures) / 1000
    return {"encode": encode.summary(), "decode": decode.summary(), "kbps": round(kbps)}


class _Stopwatch:
    """Wall and processor time of each frame."""

    def __init__(self) -> None:
        self._wall_s, self._cpu_s = [time.perf_counter()], [time.process_time()]

    def lap(self) -> None:
        """A frame is done."""
        self._wall_s.append(time.perf_counter())
        self._cpu_s.append(time.process_time())

    def summary(self) -> dict[str, float]:
        """Frames a second and ms of processor time, both by the median."""
        wall_s, cpu_s = (
            float(np.median(np.diff(times)[WARM_UP:])) for times in (self._wall_s, self._cpu_s)
        )
        return {"fps": round(1 / wall_s, 1), "cpu_ms": round(1000 * cpu_s, 2)}


def measure_speed(
    options: argparse.Namespace, video: list[Picture], folder: Path
) -> dict[str, Any]:
    """Every size in every precision."""
    results: dict[str, Any] = {}
    for size in options.sizes.split(","):
        width, height = map(int, size.split("x"))
        pictures = scaled(video[: options.frames + WARM_UP], width, height)
        for precision in options.precisions.split(","):
            codec = RtRuntime(
                options.model, device=options.device, threads=options.threads, precision=precision
            )
            results[f"{size} {precision}"] = speed(codec, pictures, folder / "speed.lvc")
            codec.close()
    report.table(
        ["size, precision", "encode fps", "cpu ms", "decode fps", "cpu ms"],
        [
            [
                name,
                *(row[task][unit] for task in ("encode", "decode") for unit in ("fps", "cpu_ms")),
            ]
            for name, row in results.items()
        ],
    )
    return results


def speed_gates(results: dict[str, Any]) -> list[report.Gate]:
    """The best precision of each size counts."""
    gates = []
    for size, (must, aim) in BOUNDS.items():
        rows = [row for name, row in results.items() if name.startswith(f"{size} ")]
        if not rows:
            continue
        for task in ("encode", "decode"):
            best = max(row[task]["fps"] for row in rows)
            gates.append(report.Gate(f"{task} {size}, fps", best, must, aim, at_least=True))
    return gates


def drift_gates(rows: list[dict[str, Any]]) -> list[report.Gate]:
    """Between machines of float32, and where one of the two is shorter."""
    exact = max(row["drift_db"] for row in rows if row["exact"])
    short = max(row["drift_db"] for row in rows if not row["exact"])
    different = sum(row["frames_of_other_symbols"] for row in rows)
    return [
        report.Gate("frames whose symbols differ between engines", different, 0, 0),
        report.Gate("drift between float32 engines, dB", exact, 0.1, 0.0),
        report.Gate(f"drift where one is {drift.SHORT.precision}, dB", short, 0.5, 0.1),
    ]


def measure_damage(
    options: argparse.Namespace, video: list[Picture], folder: Path
) -> dict[str, fuzz.Outcome]:
    """Every truncation, then random corruption: half of files, half of payloads."""
    codec = RtRuntime(options.model, device=options.device)
    pictures = [p for size in FUZZ_SIZES for p in scaled(video[:FUZZ_FRAMES], *size)]
    victim = fuzz.Victim(codec, pictures, folder / "victim.lvc")
    rng = np.random.default_rng(0)
    half = options.corruptions // 2
    outcomes = {
        "truncations": fuzz.truncate_everywhere(victim),
        "corrupt files": fuzz.corrupt_files(victim, half, rng),
        "corrupt payloads": fuzz.corrupt_payloads(victim, options.corruptions - half, rng),
    }
    codec.close()
    report.table(
        ["damage", "tried", "frames", "refused", "failures"],
        [[name, o.tried, o.frames, o.refused, len(o.failures)] for name, o in outcomes.items()],
    )
    return outcomes


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the wanted parts and report."""
    parser = report.parser(__doc__)
    parser.add_argument("--model", type=Path, default=report.ROOT / "engines/zoo/codec/rt-nano")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sizes", default="424x240,768x432")
    known = "f32,bf16" if drift.computes_bfloat16() else "f32"
    parser.add_argument("--precisions", default=known, help=f"default here {known}")
    parser.add_argument("--frames", type=int, default=48, help="of each speed")
    parser.add_argument("--drift-frames", type=int, default=DRIFT_FRAMES)
    parser.add_argument("--corruptions", type=int, default=10_000)
    options = parser.parse_args(argv)
    parts = options.parts.split(",")
    if unknown := sorted(set(parts) - set(PARTS)):
        parser.error(f"--parts must be of {', '.join(PARTS)}, got {', '.join(unknown)}")
    video = read_video(options.data / CROWD, max(options.frames + WARM_UP, options.drift_frames))
    results: dict[str, Any] = {}
    gates: list[report.Gate] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "speed" in parts:
            results["speed"] = measure_speed(options, video, folder)
            gates += speed_gates(results["speed"])
        if "drift" in parts:
            pictures = scaled(video[: options.drift_frames], *DRIFT_SIZE)
            results["drift"] = drift.compare(options.model, pictures, QUALITY)
            gates += drift_gates(results["drift"])
        if "fuzz" in parts:
            logging.disable(logging.WARNING)  # of each of thousands of damages
            damage = measure_damage(options, video, folder)
            logging.disable(logging.NOTSET)
            results["damage"] = {name: outcome.summary() for name, outcome in damage.items()}
            for name, outcome in damage.items():
                gates.append(report.Gate(f"{name}: failures", len(outcome.failures), 0, 0))
    return report.finish(
        "codec",
        configuration={
            "model": options.model.name, "device": options.device, "threads": options.threads,
            "frames": options.frames, "drift_frames": options.drift_frames,
            "corruptions": options.corruptions, "quality": QUALITY,
        },
        results=results,
        gates=gates,
        json_out=options.json_out,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
