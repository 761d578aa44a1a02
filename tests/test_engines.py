"""Engines: the contract on each, agreement between them, damaged files, missing libraries."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from contracts.check_engine import check_engine
from onnx import TensorProto, helper

from engines import load as loading
from engines.base import Engine
from engines.errors import EngineMismatch, EngineUnavailable, ModelError
from engines.load import load_engine
from engines.onnxfile import read_metadata

LIBRARIES = ("openvino", "onnxruntime")


def save_network(path: Path, operator: str = "Sigmoid") -> Path:
    """Write y = operator(x) with a free batch axis."""
    shape = ["batch", 3, 4, 5]
    graph = helper.make_graph(
        [helper.make_node(operator, ["x"], ["y"])],
        "one_operator",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"colour": "blue"})
    onnx.save(model, path)
    return path


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture
def network(tmp_path: Path) -> Path:
    return save_network(tmp_path / "sigmoid.onnx")


@pytest.mark.parametrize("library", LIBRARIES)
def test_contract(library: str, network: Path) -> None:
    def load(path: Path, streams: int) -> Engine:
        return load_engine(path, device=f"{library}:cpu", streams=streams)

    check_engine(load, network, lambda x: 1 / (1 + np.exp(-x)))


@pytest.mark.parametrize("library", LIBRARIES)
def test_missing_file(library: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere\.onnx: model file must be readable.*check the"):
        load_engine(tmp_path / "nowhere.onnx", device=f"{library}:cpu")


@pytest.mark.parametrize("library", LIBRARIES)
def test_file_that_is_no_model(library: str, tmp_path: Path) -> None:
    for content in (b"", b"not a network", b"\x00" * 64, b"PK\x03\x04 a zip archive"):
        path = tmp_path / "text.onnx"
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"file must be an ONNX model.* export"):
            load_engine(path, device=f"{library}:cpu")


@pytest.mark.parametrize("library", LIBRARIES)
def test_cut_file_is_refused_and_the_whole_one_loads(library: str, network: Path) -> None:
    whole = network.read_bytes()
    for size in range(8, len(whole) - 40, 7):  # a cut inside the metadata at the end is found too
        network.write_bytes(whole[:size])
        with pytest.raises(ModelError, match=r"file must be (a whole|an) ONNX model"):
            load_engine(network, device=f"{library}:cpu")
    network.write_bytes(whole)
    load_engine(network, device=f"{library}:cpu").close()


@pytest.mark.parametrize("library", LIBRARIES)
def test_garbage_inside_a_whole_frame(library: str, network: Path) -> None:
    content = bytearray(network.read_bytes())
    at = content.index(b"Sigmoid")
    content[at - 1 : at + 3] = b"\xff" * 4  # the operator's length: far beyond the graph
    network.write_bytes(content)
    with pytest.raises(ModelError, match=r"can't (compile|load) this network: .*; export it again"):
        load_engine(network, device=f"{library}:cpu")


@pytest.mark.parametrize("library", LIBRARIES)
def test_unknown_operator_is_named(library: str, tmp_path: Path) -> None:
    path = save_network(tmp_path / "odd.onnx", "Frobnicate")
    with pytest.raises(ModelError, match=r"odd\.onnx: .*Frobnicate.*; export it again"):
        load_engine(path, device=f"{library}:cpu")


def test_metadata_is_read_without_a_library(network: Path) -> None:
    assert read_metadata(network) == {"colour": "blue"}


def test_cuda_without_a_library_says_what_to_install(network: Path) -> None:
    with pytest.raises(EngineUnavailable, match=r"cuda:0 needs .* pip install onnxruntime-gpu"):
        load_engine(network, device="cuda:0")
    load_engine(network, device="cpu").close()


def test_a_device_that_is_not_there(network: Path) -> None:
    with pytest.raises(EngineUnavailable, match=r"device must be one of .*'cpu'.*, got 'npu'"):
        load_engine(network, device="npu")
    with pytest.raises(EngineUnavailable, match="onnxruntime runs on cpu, cuda; drop the prefix"):
        load_engine(network, device="onnxruntime:npu")


def test_options_that_make_no_sense(network: Path) -> None:
    with pytest.raises(ValueError, match=r"device must be auto, cpu, .*, got 'tpu'"):
        load_engine(network, device="tpu")
    with pytest.raises(ValueError, match=r"streams, .* must be at least 1, got 0, 1 and None"):
        load_engine(network, streams=0)
    with pytest.raises(ValueError, match=r"batch must be at least 1, got 1, 1 and 0"):
        load_engine(network, batch=0)
    for library in LIBRARIES:
        with pytest.raises(ValueError, match=r"precision must be .*, got 'int4'"):
            load_engine(network, device=f"{library}:cpu", precision="int4")


@pytest.fixture
def without_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_installed", lambda library: library != "openvino")


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_free_batch_axis_can_be_fixed(library: str, network: Path) -> None:
    engine = load_engine(network, device=f"{library}:cpu", batch=2)
    assert engine.inputs[0].shape == engine.outputs[0].shape == (2, 3, 4, 5)
    assert engine.infer({"x": np.zeros((2, 3, 4, 5), np.float32)})["y"].shape == (2, 3, 4, 5)
    with pytest.raises(EngineMismatch, match="x must have shape 2x3x4x5, got 1x3x4x5"):
        engine.infer({"x": np.zeros((1, 3, 4, 5), np.float32)})
    engine.close()


def test_auto_takes_openvino_where_it_is(network: Path) -> None:
    engine = load_engine(network, device="auto")
    assert (engine.name, engine.device) == ("openvino", "cpu")
    engine.close()


def test_auto_falls_back_to_onnxruntime(network: Path, without_openvino: None) -> None:
    engine = load_engine(network, device="auto")
    assert (engine.name, engine.device) == ("onnxruntime", "cpu")
    engine.close()
    with pytest.raises(EngineUnavailable, match="npu: needs openvino; pip install openvino"):
        load_engine(network, device="npu")


def test_compiled_network_is_cached(network: Path, own_cache: Path) -> None:
    load_engine(network, device="openvino:cpu").close()
    stored = {path: path.stat().st_mtime_ns for path in own_cache.rglob("*.blob")}
    assert len(stored) == 1
    engine = load_engine(network, device="openvino:cpu")
    assert engine.infer({"x": np.zeros((1, 3, 4, 5), np.float32)})["y"].max() == 0.5
    assert {p: p.stat().st_mtime_ns for p in own_cache.rglob("*.blob")} == stored
    engine.close()


def test_cache_folder_that_cannot_be_made(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocker = tmp_path / "file"
    blocker.touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocker))
    load_engine(network, device="openvino:cpu").close()


def test_importing_the_interface_imports_no_engine() -> None:
    code = (
        "import sys, engines.load, engines.detectors.runtime; "
        "print(sorted({'openvino', 'onnxruntime', 'torch', 'onnx'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture
def yolox(data_dir: Path) -> Path:
    return data_dir / "weights" / "yolox_nano_416_coco.onnx"


def test_engines_agree_on_a_real_network(yolox: Path) -> None:
    image = np.random.default_rng(0).uniform(0, 255, (1, 3, 416, 416)).astype(np.float32)
    outputs = []
    for library in LIBRARIES:
        engine = load_engine(yolox, device=f"{library}:cpu")
        outputs.append(engine.infer({"images": image})["output"])
        engine.close()
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=1e-3, atol=1e-4)


@pytest.fixture
def one_engine(network: Path) -> Iterator[Engine]:
    engine = load_engine(network)
    yield engine
    engine.close()


def test_specs_read_well(one_engine: Engine) -> None:
    assert str(one_engine.inputs[0]) == "x ?x3x4x5 float32"
