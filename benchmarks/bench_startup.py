"""Measure how long `streamer run` takes to begin and to stop, and what its stages weigh.

Regime: YOLOX-nano on the processor, a 720p file; each start is a fresh process tree, files are in
the page cache. Cold: an empty folder for compiled networks; warm: the folder of a run before.
Metric: seconds from the start of the command to the first detection event in the event file (median
of rounds); seconds from SIGINT to the end of a live run that records; MB of each stage without the
shared frames (RssAnon + RssFile).
Breakdown: interpreter and imports of each stage alone; then in the run when all stages had been
started, when the source was open, and when the first detection came.
Ceiling: the imports of the command and of the infer stage, in turn, and one compilation.
Command: python -m benchmarks.bench_startup [--rounds 5]
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import report
from benchmarks.running import CROWD, YOLOX, Run, RunFailed, first_event, memory_mb

STAGES = ("decode", "infer", "track", "encode", "publish")
LIVE_S = 3.0
"""How long a live run has worked when its memory is read and it is stopped."""
_IMPORT = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"


def start(options: argparse.Namespace, folder: Path, cache: Path) -> dict[str, float]:
    """Run the file until its first detection; seconds from the start of the command."""
    events = folder / "events.jsonl"
    events.unlink(missing_ok=True)
    with Run(
        str(options.data / CROWD), "--offline", "--events", str(events),
        "--detector", str(options.data / YOLOX), "--device", "cpu",
        environment={"XDG_CACHE_HOME": str(cache)},
    ) as run:  # fmt: skip
        all_started_s = when_all_started(run)
        first_event(run, events, "detection")
        detection_s = time.monotonic() - run.started_s
        opened = first_event(run, events, "stream.up")
        source_open_s = unix_s(opened["time_utc"]) - run.started_wall_s
    return {
        "all stages started": round(all_started_s, 3),
        "source open": round(source_open_s, 3),
        "first detection": round(detection_s, 3),
    }


def when_all_started(run: Run) -> float:
    """Seconds until every stage has a process.

    Raises:
        RunFailed: the run ended before.
    """
    while len(run.stages()) <= len(STAGES) - 1:  # without an output there is no encode
        if not run.running:
            run.summary()
            raise RunFailed("streamer run: ended before its stages were started")
        time.sleep(0.005)
    return time.monotonic() - run.started_s


def stop(options: argparse.Namespace, folder: Path) -> tuple[float, dict[str, dict[str, float]]]:
    """Stop a live run by SIGINT: seconds until it is gone, and what its stages weighed before."""
    events = folder / "live.jsonl"
    events.unlink(missing_ok=True)
    with Run(
        str(options.data / CROWD), "--live", "--events", str(events),
        "--record", str(folder / "recording"),
        "--detector", str(options.data / YOLOX), "--device", "cpu",
    ) as run:  # fmt: skip
        first_event(run, events, "detection")
        time.sleep(LIVE_S)
        memory = {name: memory_mb(pid) for name, pid in run.stages().items()}
        begin_s = time.monotonic()
        run.signal(signal.SIGINT)
        run.summary(timeout_s=60)
        return time.monotonic() - begin_s, memory


def import_s(module: str) -> float:
    """Seconds that importing a stage takes in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT.format(module)],
        cwd=report.ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(done.stdout)


def unix_s(time_utc: str) -> float:
    """Seconds since 1970 of an event's time."""
    return dt.datetime.fromisoformat(time_utc.replace("Z", "+00:00")).timestamp()


def middle(rounds: list[dict[str, float]]) -> dict[str, float | None]:
    """Medians over the rounds, by name."""
    return {key: report.median([one[key] for one in rounds], 3) for key in rounds[0]}


def main() -> int:
    """Measure all rounds; returns the exit code."""
    options = parse()
    cold, warm, stopped_s, weights = [], [], [], []
    imports: dict[str, list[float]] = {}
    modules = ["streamer.cli.run", *(f"streamer.stages.{stage}" for stage in STAGES)]
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        start(options, folder, folder / "page-cache")  # brings the files into the page cache
        for number in range(options.rounds):
            cache = folder / f"cache{number}"
            cold.append(start(options, folder, cache))
            warm.append(start(options, folder, cache))
            seconds, memory = stop(options, folder)
            stopped_s.append(seconds)
            weights.append(memory)
            for module in modules:
                imports.setdefault(module, []).append(import_s(module))
    mb = {
        stage: report.median(
            [memory[stage]["anonymous"] + memory[stage]["file"] for memory in weights]
        )
        for stage in weights[0]
    }
    steps = {"warm": middle(warm), "cold": middle(cold)}
    report.table(
        ["seconds until", *steps],
        [[step, *(taken[step] for taken in steps.values())] for step in steps["warm"]],
    )
    import_seconds = {module: report.median(taken, 3) for module, taken in imports.items()}
    report.table(["import", "seconds"], [list(pair) for pair in import_seconds.items()])
    report.table(["stage", "MB without the pool"], [list(pair) for pair in mb.items()])
    camera = Path(CROWD).stem
    return report.finish(
        "startup",
        configuration={"rounds": options.rounds, "source": CROWD, "detector": YOLOX},
        results={
            "seconds_until": steps,
            "seconds_until_rounds": {"warm": warm, "cold": cold},
            "import_s": import_seconds,
            "stop_s": report.median(stopped_s, 3),
            "stop_s_rounds": [round(seconds, 3) for seconds in stopped_s],
            "memory_mb": mb,
        },
        gates=[
            report.Gate("first detection, warm, s", steps["warm"]["first detection"], 3, 1.5),
            report.Gate("first detection, cold, s", steps["cold"]["first detection"], 6, 3),
            report.Gate("stop, s", report.median(stopped_s, 3), 5, 1),
            report.Gate("decode MB", mb[f"decode.{camera}"], 150, 100),
            report.Gate("track MB", mb[f"track.{camera}"], 150, 100),
        ],
        json_out=options.json_out,
    )


def parse() -> argparse.Namespace:
    """The command line."""
    parser = report.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
