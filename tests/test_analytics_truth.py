"""With the rendered street's true boxes, zones and lines count what truly happens in it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.analytics.street import Scene, camera, true_boxes, watch
from benchmarks.analytics.truth import Seen, Visit, crossings, visits
from benchmarks.bench_analytics import compare, dwells, speed_errors
from streamer.view import LineConfig, ZoneConfig

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(("seed", "fps"), [(5, 25), (6, 10)])
def test_counts_equal_the_truth_and_dwell_is_right_to_a_frame(seed: int, fps: int) -> None:
    scene = Scene(seed, 8 if fps == 25 else 20, fps=fps, width=320, height=180)
    truth = scene.truth()
    observed = watch(scene, true_boxes(truth), truth)
    figures = compare(scene, truth, observed)
    assert figures["all"]["counts_wrong"] == 0
    assert figures["all"]["counts_true"] > 15
    assert figures["all"]["dwell_frames_max"] <= 1
    for name in camera().zones:
        assert figures[name]["matched"] == figures[name]["true"] == figures[name]["visits"]
        assert figures[name]["occupancy_error"] < 0.35  # a visit is told when it is sure
    errors = [abs(error) for error in speed_errors(observed)]
    assert np.median(errors) < 5
    assert max(errors) < 15


def seen(*x_px: float | None) -> list[list[Seen]]:
    """A person 20 px wide and 80 high at these places, frame by frame."""
    return [[] if x is None else [Seen(1, "person", (x - 10, 20, x + 10, 100))] for x in x_px]


ZONE = ZoneConfig(polygon=((0.4, 0), (0.6, 0), (0.6, 1), (0.4, 1)))  # 400..600 px
LINE = LineConfig(ends=((0.5, 1), (0.5, 0)))
SIZE = (1000, 200)


def test_the_truth_itself_is_right() -> None:
    """On paths that one can count by hand: 10 frames a second, margin 4 px, settle 4 frames."""
    assert visits(seen(300, 450, 500, 550, 700), ZONE, 10, SIZE) == [Visit(1, 1, 4)]
    assert visits(seen(450, 399, 450, 399, 450), ZONE, 10, SIZE) == [Visit(1, 0, 4)]
    assert visits(seen(450, 300, 450), ZONE, 10, SIZE) == [Visit(1, 0, 1), Visit(1, 2, 2)]
    assert visits(seen(399, 402, 399, 402, 399), ZONE, 10, SIZE) == []
    assert visits(seen(399, *[402] * 6, 399), ZONE, 10, SIZE) == [Visit(1, 1, 7)]
    assert crossings(seen(450, 490, 510, 550), LINE, 10, SIZE) == (1, 0)
    assert crossings(seen(550, 450, 550, 450), LINE, 10, SIZE) == (1, 2)
    assert crossings(seen(499, 501, 499, 501, 498), LINE, 10, SIZE) == (0, 0)
    short = LineConfig(ends=((0.5, 0.4), (0.5, 0)))  # ends above the feet
    assert crossings(seen(450, 550), short, 10, SIZE) == (0, 0)


def test_visits_are_paired_by_what_they_share() -> None:
    true = [Visit(1, 0, 10), Visit(2, 5, 25)]
    ours = [Visit(8, 6, 25), Visit(9, 0, 9), Visit(10, 30, 40)]
    assert sorted(dwells(true, ours)) == [(10, 9), (20, 19)]


def test_the_benchmark_ends_in_one_json_line(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    done = subprocess.run(
        [
            sys.executable, "-m", "benchmarks.bench_analytics", "--seconds", "2", "--seeds", "5",
            "--size", "320", "180", "--frames", "50", "--json-out", str(out),
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    document = json.loads(done.stdout.splitlines()[-1])
    assert document == json.loads(out.read_text())
    assert document["benchmark"] == "analytics"
    gates = {gate["name"]: gate["value"] for gate in document["gates"]}
    assert gates["true boxes: counts wrong"] == 0
    assert 0 < gates["ms a frame, 10 zones"] < gates["ms a frame, all"]
    assert document["results"]["detector"]["counts_true"] > 0
