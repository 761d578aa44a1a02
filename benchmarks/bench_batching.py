"""Measure what batching over cameras does: how full the calls are, what they cost, who waits.

Regime: 1, 4, 8 and 16 files of 640x360 at 5 fps, rendered before, each played as a live camera;
the default detector, tracks and events, nothing is written. For each number of cameras: every frame
in a call of its own; calls of up to 8 with a window of 40 ms. Then 8 cameras, the last of which
falls to a frame a second and rises again every 3 s. What is measured begins when each camera has
been seen, and all comes from one subscriber.
Metric: frames a call; milliseconds of processor time a frame in the infer process; how old a frame
is when its event arrives (p50, p95); frames that were not looked at. One slow camera: how old the
other seven's frames are while it is slow, in terms of the spans beside it in which it is not. Ratio
and processor time hold on a busy machine too, ages and missed frames do not.
Ceiling: a call that holds a frame of each camera. On a processor a batch costs what its frames cost
one by one, so the gain is on other devices; here it must cost nothing but its window.
Command: python -m benchmarks.bench_batching --json-out benchmarks/results/batching.json
(or less of it: [--seconds 8] [--cameras 1 4 8 16] [--spans 9])
"""

from __future__ import annotations

import datetime as dt
import itertools
import json
import os
import re
import signal
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from benchmarks import report
from benchmarks.running import Run, RunFailed, cameras_yaml, endpoint, listen, read
from streamer.planes import Planes
from streamer.sources.street import Street

SIZE, FPS, SLOW_FPS = (640, 360), 5, 1
CAMERAS = (1, 4, 8, 16)
SCENES = 4
"""Different files; more cameras play them again."""
SPAN_S = 3
"""For so long the last of eight cameras is fast, then slow, and so on."""
BESIDE = 8
SETTINGS: dict[str, dict[str, float]] = {
    "one by one": {"batch": 1},
    "up to 8, 40 ms": {"batch": 8, "collect_ms": 40.0},
}
FULLEST = "up to 8, 40 ms"
_CALLS = re.compile(r"(\d+) frames in (\d+) calls")
_TICKS_S = os.sysconf("SC_CLK_TCK")
_MEDIA_S = 90  # longer than starting and measuring take together
_START_S = 300.0


@dataclass
class Seen:
    """What arrives from a run, from the moment at which each camera has been seen."""

    ages_ms: defaultdict[str, list[tuple[float, float]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    """By camera: wall clock of capture, s, and how old its frame is when the event arrives."""
    began_s: dict[str, float] = field(default_factory=dict)
    """By camera: wall clock of its first frame, s."""
    missed: int = 0
    infer_s: float = 0.0
    """Processor time."""

    def all_ages_ms(self) -> list[float]:
        """Of all cameras; each frame of these scenes shows something, so each has its event."""
        return [age for ages in self.ages_ms.values() for _, age in ages]


def render(path: Path, seed: int, numbers: Iterator[int]) -> Path:
    """Write these frames of one scene as H.264, each at its own time."""
    street = Street(seed, *SIZE, fps=Fraction(FPS))
    planes = Planes.empty(*SIZE)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.time_base = stream.codec_context.time_base = Fraction(1, FPS)
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": "18"}
        for number in numbers:
            street.render(number, planes)
            frame = av.VideoFrame(*SIZE, "yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            for target, plane in zip(frame.planes, (planes.y, planes.u, planes.v), strict=True):
                rows = memoryview(target).cast("B")
                for row, line in enumerate(plane):
                    start = row * target.line_size
                    rows[start : start + len(line)] = line.tobytes()
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def played(
    folder: Path, sources: Sequence[Path], settings: Mapping[str, float], seconds: float
) -> tuple[dict[str, Any], Seen]:
    """Run these files as cameras; what arrives, and what infer says of itself and costs."""
    cameras = {
        f"c{number}": {"source": str(link(folder, source, number)), "regime": "live"}
        for number, source in enumerate(sources)
    }
    config = cameras_yaml(
        folder / "cameras.yaml",
        cameras,
        detector={**settings, "streams": 1},
        supervisor={"ready_s": 240.0, "beat_s": 30.0},  # the machine may be busy with other things
    )
    address = endpoint()
    with Run(str(config), "--publish", address) as run:
        seen = watch(run, address, set(cameras), seconds)
        run.signal(signal.SIGINT)
        run.summary()
        calls = _CALLS.search(run.log)
    if calls is None:
        raise RunFailed(f"streamer run: infer has not told its calls\n{run.log}")
    ages_ms = seen.all_ages_ms()
    percentiles = report.percentiles(ages_ms)
    return {
        "frames_a_call": round(int(calls[1]) / int(calls[2]), 2),
        "infer_ms_a_frame": round(seen.infer_s / len(ages_ms) * 1e3, 2) if ages_ms else None,
        "age_ms": {p: percentiles[p] for p in ("p50", "p95")},
        "frames": len(ages_ms),
        "missed": seen.missed,
    }, seen


def watch(run: Run, address: str, cameras: set[str], seconds: float) -> Seen:
    """Take in what arrives for so long."""
    seen, waits_for, pid, until_ns = Seen(), set(cameras), 0, 0
    start_s = end_s = 0.0
    for arrived_ns, line in listen(run, address):
        event = json.loads(line)
        camera = event["camera"]
        if event["type"] == "detection":
            captured_s = dt.datetime.fromisoformat(event["time_utc"]).timestamp()
            seen.began_s.setdefault(camera, captured_s - event["pts_s"])
            waits_for.discard(camera)
            if until_ns:
                seen.ages_ms[camera].append((captured_s, arrived_ns / 1e6 - captured_s * 1e3))
        elif event["type"] == "frames.dropped" and until_ns:
            seen.missed += event["count"]
        if not waits_for and not until_ns:
            pid = run.stages()["infer"]
            start_s, until_ns = spent(pid), arrived_ns + int(seconds * 1e9)
        elif until_ns and arrived_ns >= until_ns:
            end_s = spent(pid)
            break
        elif not until_ns and arrived_ns / 1e9 > run.started_wall_s + _START_S:
            break
    if not end_s:
        raise RunFailed(
            f"streamer run: nothing came from {', '.join(sorted(waits_for)) or 'it any more'}\n"
            f"{run.log}"
        )
    seen.infer_s = end_s - start_s
    return seen


def spent(pid: int) -> float:
    """Seconds of processor time of a process; 0 when it is gone."""
    fields = read(f"/proc/{pid}/stat").rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_S if fields else 0.0


def link(folder: Path, source: Path, number: int) -> Path:
    """Another name for a file, since each camera needs its own source."""
    path = folder / f"camera{number}{source.suffix}"
    path.unlink(missing_ok=True)
    path.symlink_to(source)
    return path


def beside_a_slow_one(seen: Seen, camera: str) -> dict[str, Any]:
    """Ages of the other cameras' frames by spans in which that camera is fast or slow."""
    spans: defaultdict[int, list[float]] = defaultdict(list)
    for name, ages in seen.ages_ms.items():
        for captured_s, age_ms in ages if name != camera else ():
            spans[int((captured_s - seen.began_s[camera]) // SPAN_S)].append(age_ms)
    medians = {span: statistics.median(ages) for span, ages in spans.items()}
    fast = [medians[span] for span in medians if not span % 2]
    slow = [medians[span] for span in medians if span % 2]
    ratios = [
        medians[span] / statistics.mean([medians[span - 1], medians[span + 1]])
        for span in medians
        if span % 2 and span - 1 in medians and span + 1 in medians
    ]
    return {
        "fast_ms": report.median(fast),
        "slow_ms": report.median(slow),
        "ratio": round(statistics.median(ratios), 3) if ratios else None,
        "ratios": [round(ratio, 3) for ratio in ratios],
    }


def now_and_then() -> Iterator[int]:
    """Numbers of the frames of a camera that is fast in even spans and slow in odd ones."""
    for number in range(_MEDIA_S * FPS):
        slow = number // FPS // SPAN_S % 2
        if not slow or number % (FPS // SLOW_FPS) == 0:
            yield number


def main(argv: Sequence[str] | None = None) -> int:
    """Render, play, report."""
    parser = report.parser(__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each run, when all are up")
    parser.add_argument("--cameras", type=int, nargs="+", default=list(CAMERAS))
    parser.add_argument("--spans", type=int, default=9, help="beside a slow camera; 0: not at all")
    options = parser.parse_args(argv)
    results: dict[str, Any] = {}
    gates = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scenes = [
            render(folder / f"scene{seed}.mp4", seed, iter(range(_MEDIA_S * FPS)))
            for seed in range(min(SCENES, max(options.cameras)))
        ]
        played_by = itertools.cycle(scenes)
        for count in options.cameras:
            sources = list(itertools.islice(played_by, count))
            results[str(count)] = {
                name: played(folder, sources, settings, options.seconds)[0]
                for name, settings in SETTINGS.items()
            }
        if options.spans:
            slow = render(folder / "slow.mp4", SCENES, now_and_then())
            sources = [*itertools.islice(played_by, BESIDE - 1), slow]
            seconds = (options.spans + 1) * SPAN_S
            figures, seen = played(folder, sources, SETTINGS[FULLEST], seconds)
            beside = beside_a_slow_one(seen, f"c{BESIDE - 1}")
            results[f"{BESIDE}, one slow now and then"] = {FULLEST: {**figures, "others": beside}}
            gates.append(
                report.Gate("age of frames beside a slow camera, ratio", beside["ratio"], 1.3, 1.1)
            )
    report.table(
        ["cameras", "calls", "frames a call", "infer ms a frame", "p50 ms", "p95 ms", "missed"],
        [
            [
                count, setting, run["frames_a_call"], run["infer_ms_a_frame"],
                run["age_ms"]["p50"], run["age_ms"]["p95"], run["missed"],
            ]
            for count, runs in results.items()
            for setting, run in runs.items()
        ],
    )  # fmt: skip
    largest = max(options.cameras)
    most = results[str(largest)]
    batches, singles = (most[name]["infer_ms_a_frame"] for name in (FULLEST, "one by one"))
    cost = round(batches / singles, 2) if batches and singles else None
    gates += [
        report.Gate(f"frames a call, {largest} cameras, 40 ms", most[FULLEST]["frames_a_call"],
                    1.5, 3.0, at_least=True),
        report.Gate(
            f"processor time of batches against single frames, ratio, {largest} cameras",
            cost, 1.3, 1.0,
        ),
    ]  # fmt: skip
    return report.finish(
        "batching",
        configuration={
            "seconds": options.seconds, "spans": options.spans, "span_s": SPAN_S, "fps": FPS,
            "size": list(SIZE), **SETTINGS,
        },
        results=results,
        gates=gates,
        json_out=options.json_out,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
