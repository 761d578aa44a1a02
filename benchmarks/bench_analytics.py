"""Compare what zones and lines count with what truly happens in the rendered street.

Regime: configs/street_zones.yaml, 1280x720 at 25 fps, one thread, offline. "true" gives the tracker
the truth's own boxes; "detector" gives it what the default detector finds in the pictures.
Metric: visits and crossings beside the truth's; by how many frames the dwell of matched visits is
wrong; the mean error of the occupancy and of speeds. Cost: processor time of a frame with 45 tracks
and 10 zones with eight corners and every limit but that of speed; then with speeds and 4 lines too.
Everybody moves at random, so there are far more events than in any street.
Ceiling: with true boxes no error but that of a frame's length.
Command: python -m benchmarks.bench_analytics [--seconds 30]
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from dataclasses import asdict

import numpy as np

from benchmarks import report
from benchmarks.analytics.street import Observed, Scene, camera, found_boxes, true_boxes, watch
from benchmarks.analytics.truth import Seen, Visit, crossings, visits
from streamer.analytics import Analytics, Sight, Totals
from streamer.config import CameraConfig
from streamer.ledger import COUNTERS
from streamer.sources.street.traffic import LANES
from streamer.view import CalibrationConfig, LineConfig, ZoneConfig

TRACKS, ZONES, CORNERS, LINES = 45, 10, 8, 4
HALF_PX = np.array([20, 50])
Figures = dict[str, report.Value]


def compare(scene: Scene, truth: list[list[Seen]], observed: Observed) -> Figures:
    """Every zone and line beside the truth."""
    figures: Figures = {}
    wrong = right = 0
    errors: list[float] = []
    for place, (name, zone) in enumerate(camera().zones.items()):
        true = visits(truth, zone, scene.fps, scene.size)
        ours = visits_of(observed, name, scene.fps)
        dwell = [abs(a - b) for a, b in dwells(true, ours)]
        inside = np.zeros(len(truth), int)
        for visit in true:
            inside[visit.first : visit.left] += 1
        counted = np.array([occupancy[place] for occupancy in observed.occupancy])
        figures[name] = {
            "visits": len(ours),
            "true": len(true),
            "matched": len(dwell),
            "dwell_frames_p50": round(statistics.median(dwell), 2) if dwell else None,
            "dwell_frames_max": round(max(dwell), 2) if dwell else None,
            "occupancy_error": round(float(np.abs(counted - inside).mean()), 3),
            "occupancy_true": round(float(inside.mean()), 3),
        }
        errors += dwell
        wrong, right = wrong + abs(len(ours) - len(true)), right + len(true)
    for (name, line), ours in zip(camera().lines.items(), observed.counts, strict=True):
        true = crossings(truth, line, scene.fps, scene.size)
        figures[name] = {"in": ours[0], "out": ours[1], "true_in": true[0], "true_out": true[1]}
        wrong += abs(ours[0] - true[0]) + abs(ours[1] - true[1])
        right += sum(true)
    figures["all"] = {
        "counts_wrong": wrong,
        "counts_true": right,
        "dwell_frames_max": round(max(errors), 2) if errors else None,
    }
    return figures


def visits_of(observed: Observed, zone: str, fps: int) -> list[Visit]:
    """What analytics told of one zone, in frames."""
    return [
        Visit(
            int(happening.fields["track_id"]),
            round(happening.fields["entered_pts_s"] * fps),
            round((happening.fields["entered_pts_s"] + happening.fields["dwell_s"]) * fps),
        )
        for _, happening in observed.of("zone.leave", zone=zone)
    ]


def dwells(true: list[Visit], ours: list[Visit]) -> list[tuple[int, int]]:
    """Lengths of visits that are one, in frames: paired by what they share, the most first."""
    shared = sorted(
        (-(min(a.left, b.left) - max(a.first, b.first)), i, j)
        for i, a in enumerate(true)
        for j, b in enumerate(ours)
        if min(a.left, b.left) > max(a.first, b.first)
    )
    pairs: dict[int, int] = {}
    for _, i, j in shared:
        if i not in pairs and j not in pairs.values():
            pairs[i] = j
    return [(true[i].left - true[i].first, ours[j].left - ours[j].first) for i, j in pairs.items()]


def speed_errors(observed: Observed) -> list[float]:
    """By how many percent the median speed of each vehicle is wrong."""
    who: dict[int, int] = {}
    for (track_id, _), identity in observed.identity.items():
        who.setdefault(track_id, identity)
    errors = []
    for track_id, speeds in observed.speeds_kmh.items():
        known = [speed for speed in speeds if math.isfinite(speed)]
        lane = LANES[(who[track_id] - 4) // 2 % len(LANES)]
        if who[track_id] > 3 and lane.kind == "drive" and len(known) >= 25:
            errors.append(100 * (statistics.median(known) / (3.6 * lane.speed) - 1))
    return errors


def cost_ms(frames: int, *, everything: bool) -> tuple[list[float], float]:
    """Processor time of each frame, and events a frame."""
    dice = np.random.default_rng(1)
    camera = _busy(dice, everything=everything)
    analytics = Analytics("yard", camera, ("person", "car"), Totals([0] * COUNTERS))
    places = dice.uniform(0, 1, (TRACKS, 2)) * (1280, 720)
    ways = dice.normal(0, 60, (TRACKS, 2))
    ids, classes = np.arange(1, TRACKS + 1), dice.integers(0, 2, TRACKS)
    spent, events = [], 0
    for frame in range(frames):
        places = places + ways / 25
        ways = np.where((places < 0) | (places > (1280, 720)), -ways, ways)
        boxes = np.hstack([places - HALF_PX, places + HALF_PX])
        sight = Sight(
            frame, frame / 25, 1280, 720, ids, boxes + dice.normal(0, 1, boxes.shape), classes,
            np.ones(TRACKS, bool), np.empty(0, np.int64),
        )  # fmt: skip
        begun_s = time.thread_time()
        events += len(analytics.update(sight))
        analytics.readings(ids)
        spent.append(1e3 * (time.thread_time() - begun_s))
    return spent, events / frames


def _busy(dice: np.random.Generator, *, everything: bool) -> CameraConfig:
    """A camera on which all that zones can tell is asked for; everything: lines and speeds too."""
    zones = {}
    for number in range(ZONES):
        middle, angles = dice.uniform(0.2, 0.8, 2), np.sort(dice.uniform(0, math.tau, CORNERS))
        corners = middle + 0.18 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        zones[f"zone{number}"] = ZoneConfig(
            polygon=tuple((float(x), float(y)) for x, y in corners), dwell_s=5, loitering_s=30,
            occupancy_over=5, crowding_over=5, absence_s=5, stopped_s=5, direction=(1, 0),
            speed_over_kmh=30 if everything else None,
        )  # fmt: skip
    lines = {}
    for number in range(LINES if everything else 0):
        ax, ay, bx, by = dice.uniform(0, 1, 4).tolist()
        lines[f"line{number}"] = LineConfig(ends=((ax, ay), (bx, by)))
    ground = CalibrationConfig(
        picture=((0.1, 0.9), (0.9, 0.9), (0.7, 0.4), (0.3, 0.4)),
        ground_m=((0, 0), (10, 0), (10, 30), (0, 30)),
    )
    calibration = ground if everything else None
    return CameraConfig(source="none", zones=zones, lines=lines, calibration=calibration)


def main() -> int:
    """Run all scenes with both kinds of boxes; the exit code."""
    parser = report.parser(__doc__)
    parser.add_argument("--seconds", type=int, default=30, help="length of each scene")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="scenes")
    parser.add_argument("--size", type=int, nargs=2, default=[1280, 720], help="of the pictures")
    parser.add_argument("--frames", type=int, default=1000, help="of the measurement of cost")
    options = parser.parse_args()
    results: dict[str, Figures] = {}
    exact: list[Figures] = []
    speeds: list[float] = []
    found_wrong = found_true = 0
    for seed in options.seeds:
        scene = Scene(seed, options.seconds, width=options.size[0], height=options.size[1])
        truth = scene.truth()
        observed = watch(scene, true_boxes(truth), truth)
        speeds += speed_errors(observed)
        true, found = (
            compare(scene, truth, seen) for seen in (observed, watch(scene, found_boxes(scene)))
        )
        results |= {f"true, seed {seed}": true, f"detector, seed {seed}": found}
        exact.append(true)
        found_wrong += found["all"]["counts_wrong"]
        found_true += found["all"]["counts_true"]
    for name, figures in results.items():
        _print(name, figures)
    costs = {
        what: cost_ms(options.frames, everything=everything)
        for what, everything in (("zones", False), ("everything", True))
    }
    wrong = sum(figures["all"]["counts_wrong"] for figures in exact)
    dwell = max(figures["all"]["dwell_frames_max"] or 0.0 for figures in exact)
    within = [abs(error) for error in speeds]
    results["detector"] = {
        "count_error_percent": round(100 * found_wrong / max(found_true, 1), 1),
        "counts_true": found_true,
    }
    results["speed"] = {
        "vehicles": len(speeds),
        "error_percent_p50": report.median(within),
        "error_percent_max": round(max(within), 2) if within else None,
    }
    for what, (spent, events) in costs.items():
        figures = {**report.percentiles(spent), "events_a_frame": round(events, 2)}
        results[f"cost_ms, {what}"] = figures
    return report.finish(
        "analytics",
        configuration={**_plain(options), "scene": asdict(scene)},
        results=results,
        gates=[
            report.Gate("true boxes: counts wrong", wrong, 0, 0),
            report.Gate("true boxes: dwell wrong, frames", dwell, 1, 1),
            report.Gate("speed of vehicles wrong, %", report.median(within), 10, 5),
            report.Gate("ms a frame, 10 zones", report.median(costs["zones"][0], 3), 0.6, 0.3),
            report.Gate("ms a frame, all", report.median(costs["everything"][0], 3), 0.6, 0.4),
        ],
        json_out=options.json_out,
    )


def _print(name: str, figures: Figures) -> None:
    print(name)
    for where, row in figures.items():
        print(f"  {where:13} " + ", ".join(f"{key} {value}" for key, value in row.items()))
    print(flush=True)


def _plain(options: argparse.Namespace) -> dict[str, report.Value]:
    return {key: options.__dict__[key] for key in ("seconds", "seeds", "size", "frames")}


if __name__ == "__main__":
    sys.exit(main())
