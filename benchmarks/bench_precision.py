"""Measure what int8 gains over fp32 and bf16 on this processor, and what it costs in precision.

Regime: one call at a time on one thread of OpenVINO, batch 1; int8 is quantised here, calibrated on
the first half of two clips. Precisions take turns call by call, so that what else the machine does
falls on all; each round gives one ratio. OpenVINO's own default is its choice for the processor:
bf16 where there is AMX or AVX512-BF16, else fp32. A second process has AMX and BF16 instructions
hidden (ONEDNN_MAX_CPU_ISA), as on a processor with AVX-512 VNNI alone, whose default is fp32.
A third process uses all cores: OpenVINO as it comes, which is compiled without any option and gives
all cores to one frame after the other, against engines as the pipeline runs them, with a frame on
each core; so this gain is not that of the precision alone, and bf16 in streams stands beside it.
Metric: median ratio of processor time of a call; frames a second of all cores, by blocks of frames
in turns; AP50 of persons, and the mean of the classes that
network and labels share, on pictures that calibration has not seen (the detector was trained on two
thirds of them, so its AP is no measure of it here), as difference of fp32 and int8
on the same pictures, with a 95 % interval from resampling the pictures.
Ceiling: VNNI multiplies four times as many bytes as floats in an instruction. What is promised is
for processors with VNNI and without AMX; the bf16 of AMX is as fast, so int8 over that is a figure
and no promise. Speeds mean nothing on a processor without VNNI: there --speeds-from keeps those of
an earlier run, with its machine, and the loss alone is measured.
Command: python -m benchmarks.bench_precision [--rounds 300] [--speeds-from RESULTS.json]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import openvino as ov
import yaml

from benchmarks import report
from benchmarks.running import CROWD, HIGHWAY, YOLOX
from engines.base import Array, Engine
from engines.bench import random_inputs
from engines.detectors.agreement import matched
from engines.detectors.pack import decoded, planes_of, read_yolo_text
from engines.detectors.runtime import Detector
from engines.errors import EngineError
from engines.load import load_engine
from engines.quantize import quantize
from engines.zoo import find_model

VNNI_ALONE = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"}
SPEEDS = ("speed", "speed_vnni_alone", "speed_all_cores")
RESAMPLINGS = 2000
_CALIBRATED_OF_CLIP = 0.5
_PICTURES_OF_CLIP = 60
_LOWEST_SCORE = 0.01
_WARM_UP = 10
_BLOCK = 40
"""Frames of one way before the next one's turn, where all cores are at work."""
_AS_IT_COMES = "openvino as it comes"

Figures = dict[str, report.Value]
Precisions = dict[str, tuple[Path, str]]
"""File and OpenVINO's precision of each way to compute."""


@dataclass(frozen=True)
class Seen:
    """One class in one picture: scores of boxes, which of them are right, how many there are."""

    scores: np.ndarray
    hits: np.ndarray
    truth: int


def main() -> int:
    """Measure and report."""
    parser = report.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--models", nargs="+", default=["street", "yolox-nano"])
    parser.add_argument("--speeds-from", type=Path, help="results of a run on another machine")
    parser.add_argument("--race", help=argparse.SUPPRESS)  # another process: ways as JSON
    parser.add_argument("--all-cores", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.race:
        ways = {name: (Path(file), how) for name, (file, how) in json.loads(options.race).items()}
        run = on_all_cores if options.all_cores else race
        print(json.dumps(run(ways, options.rounds)))
        return 0
    results: Figures = {}
    earlier = json.loads(options.speeds_from.read_text()) if options.speeds_from else None
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models:
            path = options.data / YOLOX if name == "yolox-nano" else find_model(name)
            int8 = Path(folder) / f"{name}-int8.onnx"
            quantize(path, int8, calibration(path, options.data))
            results[name] = {
                **(
                    {kind: earlier["results"][name][kind] for kind in SPEEDS}
                    if earlier
                    else speeds(path, int8, options.rounds)
                ),
                "precision": loss(path, int8, options.data),
                "bytes": {"fp32": path.stat().st_size, "int8": int8.stat().st_size},
            }
    show(results)
    return report.finish(
        "precision",
        configuration={
            "rounds": options.rounds,
            "threads": 1,
            "batch": 1,
            "calibrated_on": [CROWD, HIGHWAY],
            **(origin(earlier) if earlier else {}),
        },
        results=results,
        gates=gates(results),
        json_out=options.json_out,
    )


# ------------------------------------------------------------------------------------------ speed


def origin(earlier: Mapping[str, Any]) -> Figures:
    """Where the speeds of an earlier document were measured, and in how many rounds."""
    configuration = earlier["configuration"]
    there = {"machine": earlier["machine"], "commit": earlier["commit"]}
    return {
        "rounds": configuration["rounds"],
        "speeds_from": configuration.get("speeds_from", there),
    }


def speeds(path: Path, int8: Path, rounds: int) -> Figures:
    """Race the precisions in all three regimes."""
    figures = (
        speed(path, int8, rounds, {}),
        speed(path, int8, rounds, VNNI_ALONE),
        speed(path, int8, rounds // 10, {}, all_cores=True),
    )
    return dict(zip(SPEEDS, figures, strict=True))


def speed(
    path: Path,
    int8: Path,
    rounds: int,
    environment: Mapping[str, str],
    *,
    all_cores: bool = False,
) -> Figures:
    """Race the precisions in a fresh process."""
    # What is not quantised computes as OpenVINO's default does.
    ways = {"fp32": (str(path), "f32"), "int8": (str(int8), "f32" if environment else "auto")}
    if not environment:
        ways |= {"bf16": (str(path), "bf16"), "default": (str(path), "auto")}
    command = [sys.executable, "-m", "benchmarks.bench_precision", "--rounds", str(rounds)]
    done = subprocess.run(
        [*command, "--race", json.dumps(ways), *(["--all-cores"] if all_cores else [])],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | environment | {"OMP_NUM_THREADS": "1"},
        cwd=report.ROOT,
    )
    measured: Figures = json.loads(done.stdout.splitlines()[-1])
    return measured


def race(ways: Precisions, rounds: int) -> Figures:
    """Run the precisions in turns; medians of processor time, and of each round's ratio to int8."""
    engines = {
        name: load_engine(path, device="openvino:cpu", precision=how, batch=1)
        for name, (path, how) in ways.items()
    }
    inputs = {name: random_inputs(engine.inputs, 1) for name, engine in engines.items()}
    samples: dict[str, list[float]] = {name: [] for name in ways}
    order = np.random.default_rng(0)
    for number in range(_WARM_UP + rounds):
        # In another order each time: whoever follows the largest one finds the caches emptied.
        for name in order.permutation(list(engines)):
            began = time.process_time()
            engines[name].infer(inputs[name])
            if number >= _WARM_UP:
                samples[name].append(time.process_time() - began)
    int8 = np.array(samples["int8"])
    return {
        "cpu_ms": {name: round(float(np.median(s)) * 1e3, 3) for name, s in samples.items()},
        "int8_times_as_fast_as": {
            name: round(float(np.median(np.array(s) / int8)), 3)
            for name, s in samples.items()
            if name != "int8"
        },
    }


def on_all_cores(ways: Precisions, rounds: int) -> Figures:
    """Run blocks of frames in turns; medians of frames a second, and of each round's ratio."""
    cores = len(os.sched_getaffinity(0))
    engines = {
        name: load_engine(path, device="openvino:cpu", precision=how, batch=1, streams=cores)
        for name, (path, how) in ways.items()
        if name != "default"
    }
    inputs = random_inputs(engines["int8"].inputs, 1)
    run: dict[str, Callable[[], None]] = {
        _AS_IT_COMES: one_by_one(ways["default"][0], inputs),
        **{name: in_streams(engine, inputs) for name, engine in engines.items()},
    }
    wall: dict[str, list[float]] = {name: [] for name in run}
    cpu: dict[str, list[float]] = {name: [] for name in run}
    order = np.random.default_rng(0)
    for number in range(1 + rounds):
        for name in order.permutation(list(run)):
            began, spent = time.perf_counter(), time.process_time()
            run[name]()
            if number:
                wall[name].append((time.perf_counter() - began) / _BLOCK)
                cpu[name].append((time.process_time() - spent) / _BLOCK)
    int8 = np.array(wall["int8"])
    return {
        "cores": cores,
        "frames_per_s": {name: round(1 / float(np.median(s)), 1) for name, s in wall.items()},
        "cpu_ms": {name: round(float(np.median(s)) * 1e3, 3) for name, s in cpu.items()},
        "int8_times_as_fast_as": {
            name: round(float(np.median(np.array(s) / int8)), 3)
            for name, s in wall.items()
            if name != "int8"
        },
    }


def one_by_one(path: Path, inputs: Mapping[str, Array]) -> Callable[[], None]:
    """A block of frames on OpenVINO without any option."""
    core = ov.Core()
    model = core.read_model(path)
    model.reshape({name: array.shape for name, array in inputs.items()})
    request = core.compile_model(model, "CPU").create_infer_request()

    def block() -> None:
        for _ in range(_BLOCK):
            request.infer(dict(inputs), share_inputs=True)

    return block


def in_streams(engine: Engine, inputs: dict[str, Array]) -> Callable[[], None]:
    """A block of frames with as many in flight as the engine has streams."""

    def block() -> None:
        room = threading.Semaphore(engine.depth)
        broken: list[EngineError] = []

        def landed(answer: dict[str, Array] | EngineError) -> None:
            if isinstance(answer, EngineError):
                broken.append(answer)
            room.release()

        for _ in range(_BLOCK):
            room.acquire()
            engine.start(inputs, landed)
        for _ in range(engine.depth):
            room.acquire()
        if broken:
            raise broken[0]

    return block


# -------------------------------------------------------------------------------------- precision


def calibration(path: Path, data: Path) -> list[dict[str, np.ndarray]]:
    """Inputs of the network from the first half of both clips."""
    detector = Detector.load(path, device="onnxruntime:cpu", batch=1)
    samples = []
    for clip in (CROWD, HIGHWAY):
        frames = list(decoded(data / clip))
        first = frames[: int(len(frames) * _CALIBRATED_OF_CLIP)]
        for planes in first[:: max(len(first) // _PICTURES_OF_CLIP, 1)][:_PICTURES_OF_CLIP]:
            samples.append(detector.prepare(planes.y, planes.u, planes.v))
    detector.close()
    return samples


def loss(path: Path, int8: Path, data: Path) -> Figures:
    """AP50 of both on labelled pictures, and the interval of their difference, in points."""
    seen = [look(path, data, "f32"), look(int8, data, "auto")]
    count = len(seen[0])
    before, after = (average_precision(each, np.arange(count)) for each in seen)
    random = np.random.default_rng(0)
    drawn = [random.integers(0, count, count) for _ in range(RESAMPLINGS)]
    pairs = [tuple(average_precision(each, pictures) for each in seen) for pictures in drawn]
    person = [one["person"] - other["person"] for one, other in pairs]
    mean = [_mean(one) - _mean(other) for one, other in pairs]
    return {
        "pictures": count,
        "persons": sum(shown["person"].truth for shown in seen[0] if "person" in shown),
        "person": _lost(before["person"], after["person"], person),
        "mean_of_classes": {
            "classes": len(before), **_lost(_mean(before), _mean(after), mean),
        },
    }  # fmt: skip


def _mean(precisions: Mapping[str, float]) -> float:
    return float(np.mean(list(precisions.values())))


def _lost(before: float, after: float, resampled: Sequence[float]) -> Figures:
    low, high = (float(end) for end in np.quantile(resampled, (0.025, 0.975)) * 100)
    return {
        "ap50_fp32": round(before, 4),
        "ap50_int8": round(after, 4),
        "lost_points": round((before - after) * 100, 3),
        "lost_points_95": [round(low, 3), round(high, 3)],
    }


def look(path: Path, data: Path, precision: str) -> list[dict[str, Seen]]:
    """Detect on all labelled pictures; for each the classes that are found or there."""
    detector = Detector.load(
        path, device="openvino:cpu", precision=precision, score=_LOWEST_SCORE, batch=1
    )
    folder = data / "coco"
    listed = yaml.safe_load((folder / "classes.yaml").read_text())["names"]
    names = {index: name for index, name in listed.items() if name in detector.classes}
    pictures = []
    for file in sorted([*folder.glob("val/images/*"), *folder.glob("train/images/*")]):
        bgr = cv2.imread(str(file))
        if bgr is None:
            raise SystemExit(f"{file}: must be a picture")
        planes = planes_of(bgr.astype(np.uint8, copy=False))
        labels = file.parent.parent / "labels" / f"{file.stem}.txt"
        kinds, boxes = read_yolo_text(labels, planes.width, planes.height)
        found = detector.detect(planes.y, planes.u, planes.v)
        shown = {}
        for index, name in names.items():
            mine = found.classes == detector.classes.index(name)
            hits = matched(found.boxes_xyxy[mine], boxes[kinds == index])
            if mine.any() or (kinds == index).any():
                shown[name] = Seen(found.scores[mine], hits, int((kinds == index).sum()))
        pictures.append(shown)
    detector.close()
    return pictures


def average_precision(seen: Sequence[Mapping[str, Seen]], drawn: np.ndarray) -> dict[str, float]:
    """AP at an overlap of 0.5, at 101 recalls, of each class that some drawn picture has."""
    by_class: dict[str, list[Seen]] = {}
    for picture in drawn.tolist():
        for name, one in seen[picture].items():
            by_class.setdefault(name, []).append(one)
    result = {}
    for name, parts in by_class.items():
        truth = sum(part.truth for part in parts)
        if not truth:
            continue
        scores = np.concatenate([part.scores for part in parts])
        hits = np.concatenate([part.hits for part in parts])[np.argsort(-scores, kind="stable")]
        right = np.cumsum(hits)
        precision = right / np.arange(1, len(hits) + 1)
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        places = np.searchsorted(right / truth, np.linspace(0, 1, 101))
        reached = places < len(hits)
        result[name] = float(np.where(reached, np.append(precision, 0)[places], 0).mean())
    return result


# ----------------------------------------------------------------------------------------- report


def gates(results: Mapping[str, report.Value]) -> list[report.Gate]:
    """Speed and loss of the shipped detector."""
    street = json.loads(json.dumps(results.get("street")))
    if street is None:
        return []
    here = street["speed"]["int8_times_as_fast_as"]
    alone = street["speed_vnni_alone"]["int8_times_as_fast_as"]
    together = street["speed_all_cores"]["int8_times_as_fast_as"]
    lost = street["precision"]["person"]["lost_points_95"][1]
    return [
        report.Gate("street int8 over fp32", here["fp32"], 1.5, 2.0, at_least=True),
        report.Gate("street int8 over fp32, VNNI alone", alone["fp32"], 1.5, 2.0, at_least=True),
        report.Gate(
            "street int8 in streams over OpenVINO as it comes, all cores",
            together[_AS_IT_COMES],
            1.5,
            2.0,
            at_least=True,
        ),
        report.Gate("street int8 over bf16 by AMX", here["bf16"], at_least=True),
        report.Gate("street AP50 of person lost, upper end, points", lost, 2.0, 1.0),
    ]


def show(results: Mapping[str, report.Value]) -> None:
    """Print what the gates leave out."""
    rows = []
    for name, measured in json.loads(json.dumps(results)).items():
        for where in SPEEDS:
            found = measured[where]
            for how, cpu_ms in found["cpu_ms"].items():
                ratio = found["int8_times_as_fast_as"].get(how)
                rows.append(
                    (name, where, how, cpu_ms, found.get("frames_per_s", {}).get(how), ratio)
                )
    report.table(("model", "regime", "precision", "CPU ms", "frames/s", "int8 is faster by"), rows)


if __name__ == "__main__":
    sys.exit(main())
