"""Every benchmark runs with tiny settings and ends in one JSON line that says what it should."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report
from benchmarks.bench_annotators import KINDS
from benchmarks.bench_pipeline import PEERS, f1
from benchmarks.bench_soak import gained, slope_mb_h

ROOT = Path(__file__).resolve().parent.parent


def run(name: str, *options: str, data: Path, folder: Path, codes: tuple[int, ...] = (0,)) -> Any:
    """The document of one benchmark; what it prints last is what it writes."""
    out = folder / "result.json"
    done = subprocess.run(
        [
            sys.executable, "-m", f"benchmarks.bench_{name}", *options,
            "--data", str(data), "--json-out", str(out),
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode in codes, done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    assert document == json.loads(out.read_text())
    assert document["benchmark"] == name
    assert document["machine"]["cores"] >= 1
    assert document["commit"] != "unknown"
    assert all(isinstance(gate["value"], int | float) for gate in document["gates"])
    return document


def test_transport_measures_every_way(data_dir: Path, tmp_path: Path) -> None:
    options = ["--rounds", "1", "--frames", "20", "--idle", "5", "--sizes", "480p"]
    document = run("transport", *options, data=data_dir, folder=tmp_path)
    assert len(document["results"]) == 6
    for figures in document["results"].values():
        assert figures["us_frame"] > 0
        assert 0 < figures["latency_us"]["p50"] <= figures["latency_us"]["p99"]


def test_events_get_through_log_and_socket(data_dir: Path, tmp_path: Path) -> None:
    options = ["--rounds", "1", "--seconds", "0.5", "--rates", "500"]
    document = run("events", *options, data=data_dir, folder=tmp_path)
    assert len(document["results"]) == 4
    for figures in document["results"].values():
        assert figures["lost"] == figures["not_in_log"] == 0
        assert 0 < figures["late_ms"]["p50"] <= figures["late_ms"]["p99"]
    assert document["results"]["500/replayed"]["replayed"] > 0


def test_pipeline_compares_itself_with_the_loops(data_dir: Path, tmp_path: Path) -> None:
    options = ["--rounds", "1", "--seconds", "0.5", "--files", "320x240", "--live-s", "0"]
    document = run("pipeline", *options, data=data_dir, folder=tmp_path)
    figures = document["results"]["320x240"]
    assert {one["frames"] for rounds in figures["rounds"].values() for one in rounds} == {13}
    assert figures["ratio"].keys() == set(PEERS)
    assert figures["f1"]["loop"] > 0.9


@pytest.mark.slow
def test_pipeline_measures_a_camera(data_dir: Path, tmp_path: Path) -> None:
    document = run("pipeline", "--rounds", "0", "--live-s", "5", data=data_dir, folder=tmp_path)
    live = document["results"]["live"]
    assert live["events_measured"] > 0
    assert live["recorded"] > 0
    assert 0 < live["latency_ms"]["p50"] <= live["latency_ms"]["p99"]


@pytest.mark.slow
def test_annotators_measure_what_they_cost(data_dir: Path, tmp_path: Path) -> None:
    options = ["--rounds", "1", "--seconds", "2", "--seeds", "2"]  # four actions begin at once
    document = run("annotators", *options, data=data_dir, folder=tmp_path)
    results = document["results"]
    for kind in KINDS:
        assert results[kind]["fps"] > 0
        part = results[kind]["fps"] / results["neither"]["fps"]
        assert results[kind]["part"] == pytest.approx(part, abs=1e-3)
    assert results["live"]["frames_out"] == results["live"]["frames_in"] == 50
    assert results["delay"]["told"] > 0


@pytest.mark.slow
def test_startup_measures_start_stop_and_memory(data_dir: Path, tmp_path: Path) -> None:
    document = run("startup", "--rounds", "1", data=data_dir, folder=tmp_path)
    results = document["results"]
    for taken in results["seconds_until"].values():
        assert 0 < taken["all stages started"] <= taken["first detection"]
    assert results["stop_s"] > 0
    assert {"supervisor", "infer", "publish"} < results["memory_mb"].keys()


@pytest.mark.slow
def test_soak_finds_nothing_left(data_dir: Path, tmp_path: Path) -> None:
    document = run("soak", "--cycles", "1", "--minutes", "0", data=data_dir, folder=tmp_path)
    assert document["passed"]
    assert set(document["results"]["left_after_cycles"].values()) == {0}


@pytest.mark.slow
def test_soak_samples_every_stage(data_dir: Path, tmp_path: Path) -> None:
    options = ["--cycles", "0", "--minutes", "0.05", "--every-s", "0.5", "--warm-up-min", "0"]
    # So short a run is all warm-up: its slopes may fail, and then the exit code has to say so.
    document = run("soak", *options, data=data_dir, folder=tmp_path, codes=(0, 1))
    assert len(document["results"]["stages"]) == 9
    assert all(stage["samples"] > 1 for stage in document["results"]["stages"].values())


def test_missed_gate_is_enforced_where_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    def finish(value: float | None, *, enforce: bool) -> int:
        gates = [report.Gate("leak", value, 0, 0)]
        return report.finish(
            "x", configuration={}, results={}, gates=gates, json_out=None, enforce=enforce
        )

    assert finish(0, enforce=True) == 0
    assert finish(1, enforce=True) == 1
    assert finish(None, enforce=True) == 1
    assert finish(1, enforce=False) == 0
    assert "MISSED" in capsys.readouterr().out


def test_slope_ignores_a_burst_and_sees_a_leak() -> None:
    flat = [(float(second), 50.0 + 30 * (second == 40), 9) for second in range(100)]
    leak = [(float(second), 50.0 + second / 360, 9 + (second > 50)) for second in range(100)]
    assert slope_mb_h(flat) == 0
    assert slope_mb_h(leak) == pytest.approx(10)
    assert (gained(flat), gained(leak)) == (0, 1)


def test_f1_counts_each_box_once_and_only_within_its_class() -> None:
    box, far = [0, 0.9, 0, 0, 10, 10], [0, 0.9, 50, 50, 60, 60]
    assert f1([[box, far]], [[far, box]]) == 1
    assert f1([[box, box]], [[box]]) == pytest.approx(2 / 3)
    assert f1([[box]], [[[1, *box[1:]]]]) == 0
    with pytest.raises(ValueError, match="same frames, got 1, 2"):
        f1([[box]], [[box], [box]])
