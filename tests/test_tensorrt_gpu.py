"""TensorRT on a real GPU: the contract, agreement with the oracle, the cache, errors.

Everything here runs the library itself; without a GPU all of it is skipped, REQUIRE_GPU=1 forbids
that. The first test of a network builds its engine, which takes seconds to a minute.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from contracts.check_engine import Collect, check_engine
from onnx import TensorProto, helper, numpy_helper

from engines.base import Engine
from engines.build import build
from engines.cache import EngineCache
from engines.errors import EngineFailed, EngineMismatch, ModelError
from engines.feed import Feed
from engines.feed_graph import add_feed
from engines.load import load_engine
from engines.onnxgraph import read_graph
from engines.zoo import SHIPPED, find_model

pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.timeout(900)]

DEVICE = "cuda:0"


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineCache]:
    """One cache for all tests here, so that each engine is built once."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield EngineCache()


@pytest.fixture(scope="module")
def sigmoid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("nets") / "sigmoid.onnx", ("batch", 3, 4, 5))


def save(path: Path, shape: tuple[int | str, ...], *nodes: onnx.NodeProto) -> Path:
    """Write a network from x to y of one shape."""
    graph = helper.make_graph(
        nodes or [helper.make_node("Sigmoid", ["x"], ["y"])],
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"colour": "blue"})
    onnx.save(model, path)
    return path


def tensorrt(path: Path, **options: object) -> Engine:
    from engines.tensorrt.engine import TensorRtEngine

    return TensorRtEngine(path, device=DEVICE, **options)  # type: ignore[arg-type]


def random_inputs(engine: Engine, batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        spec.name: random.integers(0, 256, [n or batch for n in spec.shape]).astype(spec.dtype)
        for spec in engine.inputs
    }


def test_contract(sigmoid: Path) -> None:
    def load(path: Path, streams: int) -> Engine:
        return load_engine(path, device=DEVICE, streams=streams)

    check_engine(load, sigmoid, lambda x: 1 / (1 + np.exp(-x)), device=DEVICE)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_networks_agree_with_the_oracle(name: str, precision: str) -> None:
    path = find_model(name)
    oracle = load_engine(path, device="onnxruntime:cpu")
    if any(None in spec.shape[1:] for spec in oracle.inputs):  # such run on processors alone
        with pytest.raises(ModelError, match="only the first axis, the batch, may be of any"):
            tensorrt(path)
        oracle.close()
        return
    own = read_graph(path.read_bytes(), name).precision
    engine = tensorrt(path, precision=precision if own == "fp32" else None)
    free = engine.inputs[0].shape[0] is None
    for batch in (1, 8, 5) if free else engine.inputs[0].shape[:1]:
        arrays = random_inputs(engine, batch)
        ours, theirs = engine.infer(arrays), oracle.infer(arrays)
        assert list(ours) == list(theirs)
        for output, wanted in theirs.items():
            assert ours[output].shape == wanted.shape
            assert ours[output].dtype == wanted.dtype
            close = 1e-3 if own == precision == "fp32" else 5e-2
            span = max(float(np.abs(wanted).max()), 1e-6)
            np.testing.assert_allclose(ours[output], wanted, rtol=close, atol=close * span)
    engine.close()
    oracle.close()


def test_recorded_work_equals_calls(sigmoid: Path) -> None:
    recorded, called = tensorrt(sigmoid, batch=4), tensorrt(sigmoid, batch=4, graphs=False)
    assert (recorded.recorded, called.recorded) == (1, 0)  # type: ignore[attr-defined]
    for seed in range(3):
        arrays = random_inputs(recorded, 4, seed)
        np.testing.assert_array_equal(recorded.infer(arrays)["y"], called.infer(arrays)["y"])
    with pytest.raises(EngineMismatch, match="x must have shape 4x3x4x5, got 3x3x4x5"):
        recorded.infer(random_inputs(recorded, 4) | {"x": np.zeros((3, 3, 4, 5), np.float32)})
    recorded.close()
    called.close()


def test_many_threads_get_their_own_answers(sigmoid: Path) -> None:
    engine = tensorrt(sigmoid, streams=3)
    failures: list[str] = []

    def ask(seed: int) -> None:
        for turn in range(40):
            x = np.random.default_rng(seed * 100 + turn).random((turn % 9 + 1, 3, 4, 5), np.float32)
            wanted = 1 / (1 + np.exp(-x))
            if not np.allclose(engine.infer({"x": x})["y"], wanted, atol=1e-5):
                failures.append(f"{seed}, {turn}")

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    engine.close()
    assert failures == []


def test_background_requests_overlap_and_all_arrive(sigmoid: Path) -> None:
    engine = tensorrt(sigmoid, streams=2)
    collect = Collect(2)
    for seed in range(2):
        engine.start(random_inputs(engine, 8, seed), collect)
    assert all(isinstance(result, dict) for result in collect.wait())
    engine.close()


def test_an_engine_is_built_once_and_repaired(sigmoid: Path, own_cache: EngineCache) -> None:
    heard: list[tuple[str, float]] = []
    first = build(
        sigmoid, device=DEVICE, batches=(2,), progress=lambda what, done: heard.append((what, done))
    )
    assert first.built
    assert heard[0][1] == 0.0
    assert heard[-1] == (f"built {first.path.name}", 1.0)
    whole = first.path.read_bytes()
    assert not build(sigmoid, device=DEVICE, batches=(2,)).built
    assert first.path.read_bytes() == whole
    for damaged in (whole[:-7], whole[:2000] + b"\0" + whole[2001:], b""):
        first.path.write_bytes(damaged)
        again = build(sigmoid, device=DEVICE, batches=(2,))
        assert (again.built, again.path) == (True, first.path)
    engine = tensorrt(sigmoid, batches=(2,))
    assert engine.infer({"x": np.zeros((2, 3, 4, 5), np.float32)})["y"].max() == 0.5
    engine.close()


def test_an_entry_that_the_library_refuses_is_built_again(sigmoid: Path) -> None:
    entry = build(sigmoid, device=DEVICE, batches=(3,)).path
    whole = entry.read_bytes()
    magic, header, _ = whole.split(b"\n", 2)
    junk = b"no engine at all"
    vouched = json.loads(header) | {
        "sha256": hashlib.sha256(junk).hexdigest(), "bytes": len(junk)
    }  # fmt: skip
    entry.write_bytes(b"\n".join([magic, json.dumps(vouched).encode(), junk]))
    assert not build(sigmoid, device=DEVICE, batches=(3,)).built, "the cache alone can't know"
    engine = tensorrt(sigmoid, batch=3)
    assert engine.infer({"x": np.zeros((3, 3, 4, 5), np.float32)})["y"].max() == 0.5
    engine.close()
    assert len(entry.read_bytes()) > len(whole) / 2


def test_options_are_part_of_the_key(sigmoid: Path) -> None:
    paths = {
        build(sigmoid, device=DEVICE, **options).path  # type: ignore[arg-type]
        for options in (
            {}, {"precision": "tf32"}, {"batches": (4,)}, {"workspace_mb": 64},
        )
    }  # fmt: skip
    assert len(paths) == 4


def test_an_engine_for_later_releases_runs_here(sigmoid: Path) -> None:
    engine = tensorrt(sigmoid, batches=(1,), version_compatible=True)
    assert engine.infer({"x": np.zeros((1, 3, 4, 5), np.float32)})["y"].max() == 0.5
    engine.close()


def test_q_dq_nodes_are_built_as_int8(tmp_path: Path) -> None:
    weights = {
        "s": np.array(0.05, np.float32),
        "z": np.array(0, np.int8),
        "w": np.random.default_rng(0).integers(-127, 128, (8, 8, 3, 3)).astype(np.int8),
        "sw": np.full(8, 0.01, np.float32),
        "zw": np.zeros(8, np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "sw", "zw"], ["wd"], axis=0),
        helper.make_node("Conv", ["xd", "wd"], ["y"], pads=[1, 1, 1, 1]),
    ]
    shape = ("batch", 8, 16, 16)
    path = save(tmp_path / "int8.onnx", shape, *nodes)
    model = onnx.load(path)
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in weights.items())
    onnx.save(model, path)
    engine, oracle = tensorrt(path), load_engine(path, device="onnxruntime:cpu")
    assert engine.precision == "int8"  # type: ignore[attr-defined]
    x = {"x": np.random.default_rng(1).standard_normal((3, 8, 16, 16)).astype(np.float32)}
    np.testing.assert_allclose(engine.infer(x)["y"], oracle.infer(x)["y"], atol=1e-2, rtol=1e-2)
    engine.close()
    oracle.close()


def test_bf16_where_the_release_has_it() -> None:
    import tensorrt as trt

    if int(trt.__version__.split(".")[0]) < 10:
        with pytest.raises(ModelError, match="got bf16; build with precision fp16"):
            build(find_model("street"), device=DEVICE, precision="bf16")
        return
    engine = tensorrt(find_model("street"), precision="bf16", batch=1)
    oracle = load_engine(find_model("street"), device="onnxruntime:cpu")
    arrays = random_inputs(engine, 1)
    np.testing.assert_allclose(engine.infer(arrays)["rows"], oracle.infer(arrays)["rows"], atol=0.2)
    engine.close()
    oracle.close()


def test_planes_of_a_frame_go_straight_in(tmp_path: Path) -> None:
    feed = Feed(1280, 720, "planes", 448, 288, "yuv", letterbox=True, padding=(114, 128, 128))
    path = tmp_path / "fed.onnx"
    path.write_bytes(add_feed(find_model("street").read_bytes(), feed, "street"))
    engine, oracle = tensorrt(path, batch=2), load_engine(path, device="onnxruntime:cpu")
    arrays = random_inputs(engine, 2)
    ours, theirs = engine.infer(arrays)["rows"], oracle.infer(arrays)["rows"]
    np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=2e-3)
    engine.close()
    oracle.close()


def test_what_the_parser_refuses_is_said_and_the_cache_is_unharmed(
    tmp_path: Path, own_cache: EngineCache
) -> None:
    before = sorted(own_cache.folder.glob("*.engine"))
    node = helper.make_node("Upsample", ["x"], ["y"], mode="cubic")  # 17 has none
    path = save(tmp_path / "odd.onnx", ("batch", 3, 4, 5), node)
    with pytest.raises(ModelError, match=r"odd\.onnx: TensorRT .* can't parse .*; export it again"):
        build(path, device=DEVICE)
    assert sorted(own_cache.folder.glob("*.engine")) == before


def test_too_little_memory_is_one_clear_error() -> None:
    from engines.tensorrt.cuda import Device

    device = Device(0, "tensorrt cuda:0: net.onnx")
    free, total = device.memory_bytes()
    assert 0 < free <= total
    with pytest.raises(EngineFailed, match=r"reserving .* MB on the GPU for x 9x3.*smaller batch"):
        device.allocate(2 * total, "x 9x3x4x5")
    address = device.allocate(1 << 20, "x")  # the error leaves the GPU usable
    device.free(address)


def test_closing_gives_the_memory_back(sigmoid: Path) -> None:
    from engines.tensorrt.cuda import Device

    device = Device(0, "test")
    tensorrt(sigmoid, batch=1).close()
    before, _ = device.memory_bytes()
    for _ in range(5):
        tensorrt(sigmoid, batch=1, streams=4).close()
    after, _ = device.memory_bytes()
    assert before - after < 32e6
