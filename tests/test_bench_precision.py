"""The precision benchmark: turns of all ways to compute, and AP of resampled pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_networks import save_means

from benchmarks import bench_precision
from benchmarks.bench_precision import (
    Seen,
    average_precision,
    gates,
    in_streams,
    on_all_cores,
    origin,
    race,
)
from benchmarks.readme import table
from engines.bench import random_inputs
from engines.errors import EngineFailed
from engines.load import load_engine

HOWS = {"fp32": "f32", "int8": "auto", "bf16": "bf16", "default": "auto"}


@pytest.fixture
def network(tmp_path: Path) -> Path:
    return save_means(tmp_path / "means.onnx", {})


def test_each_way_is_timed_against_int8(network: Path) -> None:
    ways = {name: (network, how) for name, how in HOWS.items()}
    alone = race(ways, 2)
    assert alone["cpu_ms"].keys() == HOWS.keys()
    assert alone["int8_times_as_fast_as"].keys() == HOWS.keys() - {"int8"}
    together = on_all_cores(ways, 2)
    assert together["cores"] >= 1
    assert together["frames_per_s"].keys() == {"openvino as it comes", "fp32", "int8", "bf16"}
    assert all(rate > 0 for rate in together["frames_per_s"].values())


def test_a_block_keeps_the_streams_busy_and_tells_of_errors(
    network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load_engine(network, device="openvino:cpu", streams=2)
    inputs = random_inputs(engine.inputs, 1)
    calls = []
    run = engine._run
    monkeypatch.setattr(engine, "_run", lambda arrays: calls.append(1) or run(arrays))
    in_streams(engine, inputs)()
    assert len(calls) == bench_precision._BLOCK
    monkeypatch.setattr(engine, "_closed", True)
    with pytest.raises(EngineFailed, match="the engine is closed"):
        in_streams(engine, inputs)()
    engine.close()


def test_average_precision_by_hand() -> None:
    two_of_three = Seen(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]), 3)
    pictures = [{"person": two_of_three}, {"car": Seen(np.empty(0), np.empty(0, bool), 2)}]
    found = average_precision(pictures, np.arange(2))
    # Of 101 recalls 34 are up to 1/3, where precision is 1; 33 up to 2/3, where it is 2/3.
    assert found == {"person": pytest.approx((34 + 33 * 2 / 3) / 101), "car": 0}
    assert average_precision(pictures, np.array([1, 1])) == {"car": 0}


def test_speeds_of_another_machine_keep_its_name_and_bf16_promises_nothing(tmp_path: Path) -> None:
    there = {"cpu": "Two", "cores": 2}
    first = {"machine": there, "commit": "abc", "configuration": {"rounds": 7}}
    kept = origin(first)
    assert kept == {"rounds": 7, "speeds_from": {"machine": there, "commit": "abc"}}
    second = {"machine": {"cpu": "One", "cores": 1}, "commit": "def", "configuration": kept}
    assert origin(second) == kept
    ratios = {"fp32": 1.2, "bf16": 1.01, "openvino as it comes": 2.1}
    street = {kind: {"int8_times_as_fast_as": ratios} for kind in bench_precision.SPEEDS}
    lost = {"person": {"lost_points_95": [-1.0, 1.5]}}
    made = {gate.name: gate for gate in gates({"street": street | {"precision": lost}})}
    amx = made["street int8 over bf16 by AMX"]
    assert (amx.value, amx.passed, amx.verdict) == (1.01, True, "-")
    assert not made["street int8 over fp32, VNNI alone"].passed
    rows = [
        {"name": g.name, "value": g.value, "must": g.must, "aim": g.aim,
         "at_least": g.at_least, "passed": g.passed}
        for g in made.values()
    ]  # fmt: skip
    document = second | {"benchmark": "precision", "gates": rows}
    (tmp_path / "precision.json").write_text(json.dumps(document))
    shown = table(tmp_path)
    assert "| precision | street int8 over bf16 by AMX | 1.01 | - | - |" in shown
    assert "| precision | street int8 over fp32 | 1.2 (missed) | ≥ 1.5 | ≥ 2 |" in shown
    assert "Measured precision on 1 cores of One; speeds of precision on 2 cores of Two." in shown
