"""The GPU benchmark without a GPU: everything of it but the GPU, on this machine's processor."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from benchmarks.gpu.measure import Oracle, latency_ms, throughput, unfit
from engines.base import Array, Arrays, Done, TensorSpec
from engines.errors import EngineError, EngineFailed
from engines.load import load_engine
from engines.onnxfile import read_metadata
from engines.onnxgraph import read_graph

ROOT = Path(__file__).resolve().parent.parent


def run(module: str, *options: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, options)],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def save(path: Path, *, batch: int | str = "batch") -> Path:
    """Write y = 2 x."""
    shape = [batch, 3, 4, 4]
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "double",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def test_all_of_it_runs_on_a_processor(tmp_path: Path, data_dir: Path) -> None:
    folder = tmp_path / "prepared"
    done = run("benchmarks.gpu.prepare", folder, "--data", data_dir, "--size", "320x180")
    assert done.returncode == 0, done.stderr
    names = {path.name for path in folder.iterdir()}
    assert names >= {
        f"street{kind}" for kind in (".onnx", ".fp16.onnx", ".planes.onnx", ".planes.fp16.onnx")
    }
    assert read_graph((folder / "street.planes.fp16.onnx").read_bytes(), "n").precision == "fp16"
    assert "feed" in read_metadata(folder / "street.planes.onnx")
    for name in names:
        if not name.startswith("street."):  # one detector is enough to measure
            (folder / name).unlink()
    save(folder / "double.onnx", batch=2)

    result = tmp_path / "gpu.json"
    options = ["--device", "cpu", "--batches", "1,2", "--seconds", "0.01", "--json-out", result]
    done = run("benchmarks.gpu", folder, *options)
    assert done.returncode == 0, done.stderr
    document = json.loads(result.read_text())
    assert document == json.loads(done.stdout.splitlines()[-1])
    assert document["configuration"]["gpu"] is None
    assert document["configuration"]["versions"]["numpy"] == np.__version__
    rows = {(row["network"], row["batch"]): row for row in document["results"]["rows"]}
    assert set(rows) == {(n, b) for n in ("street", "street.planes", "double") for b in (1, 2)}
    assert rows["double", 1]["skipped"] == "the graph has another batch size"
    assert rows["double", 2]["inputs"] == "noise"
    assert rows["street.planes", 2]["inputs"] == "frames"
    for row in rows.values():
        if "skipped" not in row:
            assert row["difference"] <= 1e-3
            assert 0 < row["latency_ms"]["p50"] <= row["latency_ms"]["p99"]
            assert row["per_s"] > 0
    assert rows["street", 1]["onnxruntime_cpu_ms"] > 0


def test_what_breaks_is_a_row_and_the_rest_goes_on(tmp_path: Path) -> None:
    save(tmp_path / "a.onnx")
    (tmp_path / "b.onnx").write_bytes(b"nothing")
    done = run("benchmarks.gpu", tmp_path, "--device=cpu", "--batches=1", "--seconds=0.01")
    assert done.returncode == 1
    good, bad = json.loads(done.stdout.splitlines()[-1])["results"]["rows"]
    assert good["difference"] == 0
    assert bad["error"].startswith("ModelError: ")
    assert "must be an ONNX model" in bad["error"]


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    save(tmp_path / "a.onnx")
    done = run("benchmarks.gpu", tmp_path, "--device", "cuda:63")
    assert done.returncode == 1
    assert "no GPU to measure: " in done.stderr
    assert "Traceback" not in done.stderr
    (tmp_path / "a.onnx").unlink()
    done = run("benchmarks.gpu", tmp_path, "--device", "cpu")
    assert "folder must hold ONNX files, got none" in done.stderr


class Wrong:
    """An engine that answers with something else, or breaks."""

    depth = 2

    def __init__(self, change: float) -> None:
        self.change = change

    def infer(self, arrays: Arrays) -> dict[str, Array]:
        return {"y": arrays["x"] * 2 + self.change}

    def start(self, arrays: Arrays, done: Done) -> None:
        done(EngineFailed("the GPU fell off"))


def test_a_difference_is_seen(tmp_path: Path) -> None:
    oracle = Oracle(save(tmp_path / "a.onnx"), 1)
    engine: Any = Wrong(1.0)
    assert 1 / 510 <= oracle.difference(engine, 4) <= 1 / 400
    assert oracle.difference(Wrong(float("nan")), 4) == float("inf")  # type: ignore[arg-type]
    assert oracle.difference(Wrong(0.0), 4) == 0  # type: ignore[arg-type]
    with pytest.raises(EngineFailed, match="the GPU fell off"):
        throughput(engine, oracle.inputs(1), 1, 0.01)


def test_stored_frames_fill_any_batch(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).random((3, 3, 4, 4), np.float32)
    np.savez(tmp_path / "a.npz", x=frames)
    oracle = Oracle(save(tmp_path / "a.onnx"), 1)
    assert oracle.source == "frames"
    np.testing.assert_array_equal(oracle.inputs(7)["x"], frames[[0, 1, 2, 0, 1, 2, 0]])


def test_what_is_not_measured(tmp_path: Path) -> None:
    def spec(*shape: int | None) -> TensorSpec:
        return TensorSpec("x", shape, np.dtype("float32"))

    assert unfit([spec(None, 3, 8, 8)], 4) is None
    assert unfit([spec(4, 3, 8, 8)], 4) is None
    assert unfit([spec(1, 3, 8, 8)], 4) == "the graph has another batch size"
    assert unfit([spec(None, 3, None, 8)], 4) == "the sizes of its input are free"


def test_figures_of_an_engine(tmp_path: Path) -> None:
    engine = load_engine(save(tmp_path / "a.onnx"), device="onnxruntime:cpu", streams=2)
    inputs = {"x": np.ones((4, 3, 4, 4), np.float32)}
    latency = latency_ms(engine, inputs, 0.02)
    assert latency["p50"] is not None
    assert 0 < latency["p50"] < 1000
    assert throughput(engine, inputs, 4, 0.05) > 10
    engine.close()
    with pytest.raises(EngineError, match="the engine is closed"):
        throughput(engine, inputs, 4, 0.05)
