"""Show that running for long and starting often leave nothing behind; exit code 1 if they do.

Cycles: a pipeline of one rendered camera, with recording and events, is started, stopped after its
first detection, and looked for: processes, descriptors, mappings of shared memory, files in
/dev/shm, abstract sockets of the run.
Minutes: two rendered cameras record and publish; every few seconds the anonymous memory and the
descriptors of each stage are read. The slope is Theil-Sen's (the median of all pairs' slopes),
after a warm-up; a burst or a single outlier does not move it.
Metric: things left over (must 0); MB an hour of each process (must below 1); descriptors gained
from the first to the last fifth (must 0); restarts (must 0).
Ceiling: 0 of each.
Command: python -m benchmarks.bench_soak [--cycles 100] [--minutes 30] [--warm-up-min 5]
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.running import (
    STREET,
    YOLOX,
    Run,
    RunFailed,
    abstract_sockets,
    cameras_yaml,
    descriptors,
    first_event,
    memory_mb,
    read,
)
from streamer.configfile import build_config
from streamer.graph import build_graph
from streamer.supervisor import Supervisor

SHM = Path("/dev/shm")  # noqa: S108 - looked at, never written
SLOPE_MB_H = 1.0
CYCLE_S = 60.0
"""A cycle without a detection by then has failed."""

Samples = dict[str, list[tuple[float, float, int]]]
"""By stage: monotonic time, anonymous memory in MB, descriptors."""


def cycle(detector: str, folder: Path) -> dict[str, int]:
    """Start a pipeline in this process, stop it after its first detection; what is left of it.

    Raises:
        RunFailed: a stage failed, or nothing was detected.
    """
    before = (descriptors("self"), mappings(), set(SHM.iterdir()))
    events = folder / "events.jsonl"
    events.unlink(missing_ok=True)
    config = build_config(
        {
            "cameras": {"gate": STREET},
            "detector": {"model": detector, "device": "cpu"},
            "record": {"folder": str(folder / "recording")},
            "events": {"file": str(events), "log": str(folder / "events.db")},
        }
    )
    supervisor = Supervisor(build_graph(config, {"gate": True}))
    over = threading.Event()
    watcher = threading.Thread(target=stop_at_detection, args=(supervisor, events, over))
    watcher.start()
    outcome = supervisor.run()
    over.set()
    watcher.join()
    if outcome.errors or not outcome.summary.events:
        raise RunFailed(f"a cycle failed: {outcome}")
    return {
        "processes": len(children()),
        "descriptors": descriptors("self") - before[0],
        "mappings": mappings() - before[1],
        "files in /dev/shm": len(set(SHM.iterdir()) - before[2]),
        "sockets": len(abstract_sockets(supervisor.run_id)),
    }


def stop_at_detection(supervisor: Supervisor, events: Path, over: threading.Event) -> None:
    """Ask for the end when the file has a detection, or when it takes too long."""
    deadline = time.monotonic() + CYCLE_S
    while time.monotonic() < deadline and '"type":"detection"' not in read(str(events)):
        if over.wait(0.02):
            return
    supervisor.request_stop()


def children() -> list[int]:
    """Processes that this one has started, zombies included."""
    pid = os.getpid()
    found = read(f"/proc/{pid}/task/{pid}/children").split()
    return [int(child) for child in found]


def mappings() -> int:
    """Shared memory of pools and ledgers that this process has mapped."""
    return sum("memfd:" in line for line in read("/proc/self/maps").splitlines())


def run_cycles(count: int, detector: str) -> dict[str, int]:
    """All cycles; the most that any of them has left, by kind."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        cycle(detector, Path(name))  # libraries open their descriptors on first use
        most: dict[str, int] = {}
        for _ in range(count):
            left = cycle(detector, Path(name))
            most = {kind: max(most.get(kind, 0), number) for kind, number in left.items()}
    return most


def sample(minutes: float, every_s: float, detector: str) -> tuple[Samples, dict[str, Any]]:
    """Run two cameras and read memory and descriptors of every stage."""
    samples: Samples = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        config = cameras_yaml(
            folder / "two.yaml",
            {
                camera: {"source": f"{STREET}&seed={seed}", "regime": "live"}
                for seed, camera in enumerate(("gate", "yard"), 1)
            },
            detector={"model": detector, "device": "cpu"},
            record={"folder": str(folder / "recording")},
            events={"file": str(folder / "events.jsonl")},
        )
        with Run(str(config)) as run:
            first_event(run, folder / "events.jsonl", "detection")
            until = time.monotonic() + minutes * 60
            while run.running and time.monotonic() < until:
                for stage, pid in run.stages().items():
                    try:
                        taken = (time.monotonic(), memory_mb(pid)["anonymous"], descriptors(pid))
                    except (FileNotFoundError, KeyError):
                        continue  # it died just now, which the count of restarts tells
                    samples.setdefault(stage, []).append(taken)
                time.sleep(every_s)
            run.signal(signal.SIGINT)
            summary = run.summary()
    return samples, summary


def slope_mb_h(samples: list[tuple[float, float, int]]) -> float:
    """Theil-Sen slope of memory over time; at most 1000 samples are paired."""
    step = max(1, len(samples) // 1000)
    time_s = np.array([taken[0] for taken in samples[::step]])
    mb = np.array([taken[1] for taken in samples[::step]])
    first, second = np.triu_indices(len(mb), 1)
    return float(np.median((mb[second] - mb[first]) / (time_s[second] - time_s[first])) * 3600)


def gained(samples: list[tuple[float, float, int]]) -> float:
    """Descriptors at the end less those at the beginning, by the medians of a fifth each."""
    counts = [taken[2] for taken in samples]
    fifth = max(1, len(counts) // 5)
    return statistics.median(counts[-fifth:]) - statistics.median(counts[:fifth])


def main() -> int:
    """Run what is asked for; returns the exit code."""
    options = parse()
    shipped = (report.ROOT / "engines" / "zoo" / "street.onnx").exists()
    detector = "street" if shipped else str(options.data / YOLOX)
    results: dict[str, report.Value] = {"detector": detector}
    gates: list[report.Gate] = []
    if options.cycles:
        left = run_cycles(options.cycles, detector)
        results["left_after_cycles"] = left
        report.table(
            ["left over, most of any cycle", "count"], [list(pair) for pair in left.items()]
        )
        gates += [report.Gate(f"{kind} left over", count, 0, 0) for kind, count in left.items()]
    if options.minutes:
        samples, summary = sample(options.minutes, options.every_s, detector)
        figures = {stage: figure(taken, options.warm_up_min) for stage, taken in samples.items()}
        results |= {"stages": figures, "summary": summary}
        report.table(
            ["stage", "samples", "MB", "MB/h", "descriptors gained"],
            [[stage, *figures[stage].values()] for stage in figures],
        )
        gates.append(report.Gate("restarts", summary["restarts"], 0, 0))
        for stage, one in figures.items():
            gates.append(report.Gate(f"{stage} MB/h", one["slope_mb_h"], SLOPE_MB_H, 0))
            gates.append(report.Gate(f"{stage} descriptors", one["descriptors_gained"], 0, 0))
    return report.finish(
        "soak",
        configuration={
            "cycles": options.cycles,
            "minutes": options.minutes,
            "every_s": options.every_s,
            "warm_up_min": options.warm_up_min,
        },
        results=results,
        gates=gates,
        json_out=options.json_out,
        enforce=True,
    )


def figure(samples: list[tuple[float, float, int]], warm_up_min: float) -> dict[str, float | None]:
    """What is said of one stage; no slope where the warm-up leaves less than two samples."""
    kept = [taken for taken in samples if taken[0] >= samples[0][0] + warm_up_min * 60]
    enough = len(kept) > 1
    return {
        "samples": len(kept),
        "median_mb": report.median([taken[1] for taken in kept]),
        "slope_mb_h": round(slope_mb_h(kept), 3) if enough else None,
        "descriptors_gained": gained(kept) if enough else None,
    }


def parse() -> argparse.Namespace:
    """The command line."""
    parser = report.parser(__doc__)
    parser.add_argument("--cycles", type=int, default=100, help="0 leaves them out")
    parser.add_argument("--minutes", type=float, default=30.0, help="0 leaves it out")
    parser.add_argument("--every-s", type=float, default=5.0, help="between samples")
    parser.add_argument("--warm-up-min", type=float, default=5.0, help="not part of the slope")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
