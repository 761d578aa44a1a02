"""TensorRT without a GPU: what it is given, how it is told, and what is said when it can't."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from engines import load as loading
from engines.base import TensorSpec
from engines.build import PRECISIONS, build, device_index, resolve_precision
from engines.errors import EngineFailed, EngineMismatch, EngineUnavailable, ModelError
from engines.load import load_engine
from engines.onnxgraph import GraphFacts, read_graph
from engines.precision import lower
from engines.tensorrt.checks import check_graph
from engines.tensorrt.operators import DATA_DEPENDENT, documented
from engines.tensorrt.profiles import (
    FREE_BATCHES,
    Profile,
    choose,
    make_profiles,
    shape_of,
    shapes_text,
)
from engines.tensorrt.progress import Tally
from engines.tensorrt.release import Release
from engines.zoo import SHIPPED, find_model

RELEASES = [Release.parse(text) for text in ("8.6.0", "10.0.1", "10.16.1.11", "11.4.0.106")]
EIGHT, TEN, ELEVEN = RELEASES[0], RELEASES[1], RELEASES[3]
IMAGE = TensorSpec("x", (None, 3, 8, 8), np.dtype("float32"))


def network(
    *nodes: onnx.NodeProto,
    opset: int = 17,
    element: int = TensorProto.FLOAT,
    shape: tuple[int | str, ...] = ("batch", 3, 8, 8),
    weights: dict[str, np.ndarray] | None = None,
    domain: str = "",
) -> onnx.ModelProto:
    """A network from x to y."""
    graph = helper.make_graph(
        nodes or [helper.make_node("Relu", ["x"], ["y"])],
        "network",
        [helper.make_tensor_value_info("x", element, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )
    imports = [helper.make_opsetid("", opset)]
    if domain:
        imports.append(helper.make_opsetid(domain, 1))
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def facts_of(model: onnx.ModelProto) -> GraphFacts:
    return read_graph(model.SerializeToString(), "net.onnx")


def convolution() -> onnx.ModelProto:
    """Two convolutions, and a tail that decodes what they say."""
    random = np.random.default_rng(0)
    weights = {
        "w1": random.standard_normal((4, 3, 3, 3)).astype(np.float32) / 5,
        "b1": np.array([0.1, 0.0, -0.2, 0.3], np.float32),
        "w2": random.standard_normal((3, 4, 1, 1)).astype(np.float32) / 2,
        "cell": np.full((1, 3, 1, 1), 1000.5, np.float32),
        "scales": np.array([1, 1, 2, 2], np.float32),
    }
    return network(
        helper.make_node("Resize", ["x", "", "scales"], ["large"], mode="linear"),
        helper.make_node("Conv", ["large", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"]),
        helper.make_node("Sigmoid", ["c2"], ["s2"]),
        helper.make_node("Add", ["s2", "cell"], ["y"]),
        weights=weights,
    )


# ------------------------------------------------------------------------------- what a graph is


def test_facts_are_what_the_onnx_package_reads() -> None:
    for name in SHIPPED:
        path = find_model(name)
        proto, facts = onnx.load(path), read_graph(path.read_bytes(), name)
        assert facts.opset == proto.opset_import[0].version
        assert set(facts.operators) == {node.op_type for node in proto.graph.node}
        assert [spec.name for spec in facts.inputs] == [v.name for v in proto.graph.input]
        assert [spec.name for spec in facts.outputs] == [v.name for v in proto.graph.output]
        stored = {tensor.data_type for tensor in proto.graph.initializer}
        names = {helper.tensor_dtype_to_np_dtype(kind).name for kind in stored}
        assert names <= facts.element_types


def test_branches_are_looked_into() -> None:
    def branch(name: str, operator: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(operator, ["x"], [name])], name, [], [out])

    model = network(
        helper.make_node("ReduceMax", ["x"], ["top"], keepdims=0),
        helper.make_node("Cast", ["top"], ["any"], to=TensorProto.BOOL),
        helper.make_node(
            "If", ["any"], ["y"], then_branch=branch("a", "Selu"), else_branch=branch("b", "Erf")
        ),
    )
    facts = facts_of(model)
    assert {"If", "Selu", "Erf"} <= facts.operators.keys()
    assert facts.readers["x"] == {"ReduceMax", "Selu", "Erf"}
    assert "bool" in facts.element_types


@pytest.mark.parametrize("cut", [0.1, 0.4, 0.7, 0.95])
def test_a_cut_graph_is_refused(cut: float) -> None:
    whole = convolution().SerializeToString()
    with pytest.raises(ModelError, match=r"net\.onnx: file must be .*ONNX model.*again"):
        read_graph(whole[: int(len(whole) * cut)], "net.onnx")
    assert read_graph(whole, "net.onnx").opset == 17


def test_types_that_numpy_lacks_are_refused_at_the_doors() -> None:
    with pytest.raises(ModelError, match=r"net\.onnx: x: inputs .* got bfloat16; cast them inside"):
        facts_of(network(element=TensorProto.BFLOAT16))


# ------------------------------------------------------------------ what is handed to TensorRT


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.text)
@pytest.mark.parametrize("name", SHIPPED)
def test_every_release_is_given_only_what_it_documents(name: str, release: Release) -> None:
    model = find_model(name).read_bytes()
    facts = read_graph(model, name)
    assert facts.opset == 17, "exactly, for 8.6"
    if any(None in spec.shape[1:] for spec in facts.inputs):  # such run on processors alone
        with pytest.raises(ModelError, match="only the first axis, the batch, may be of any"):
            check_graph(facts, release, name)
        return
    check_graph(facts, release, name)
    if facts.precision == "fp32":
        check_graph(read_graph(lower(model, "fp16", name), name), release, name)


@pytest.mark.parametrize("weights", ["yolox_nano_416_coco", "FastestDet_352_coco"])
def test_public_detectors_pass_too(weights: str, data_dir: Path) -> None:
    model = (data_dir / "weights" / f"{weights}.onnx").read_bytes()
    for release in RELEASES:
        check_graph(read_graph(model, weights), release, weights)


def test_a_newer_opset_is_refused_by_8_6_alone() -> None:
    facts = facts_of(network(opset=18))
    with pytest.raises(ModelError, match=r"opset must be 9 to 17 for TensorRT 8\.6\.0, got 18"):
        check_graph(facts, EIGHT, "net.onnx")
    check_graph(facts, TEN, "net.onnx")
    check_graph(facts_of(network(opset=17)), EIGHT, "net.onnx")
    with pytest.raises(ModelError, match=r"opset must be 9 to the newest for .* got 8; export"):
        check_graph(facts_of(network(opset=8)), TEN, "net.onnx")


def test_an_operator_that_is_missing_is_named_with_its_place() -> None:
    facts = facts_of(network(helper.make_node("Mish", ["x"], ["y"])))
    with pytest.raises(ModelError, match=r"got Mish \(at 'y'\); .* onnxruntime: before the device"):
        check_graph(facts, EIGHT, "net.onnx")
    check_graph(facts, TEN, "net.onnx")


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.text)
def test_operators_of_other_domains_are_refused(release: Release) -> None:
    node = helper.make_node("FusedConv", ["x"], ["y"], domain="com.microsoft")
    facts = facts_of(network(node, domain="com.microsoft"))
    with pytest.raises(ModelError, match=r"got com\.microsoft\.FusedConv \(at 'y'\)"):
        check_graph(facts, release, "net.onnx")


@pytest.mark.parametrize("operator", sorted(DATA_DEPENDENT))
def test_lengths_that_depend_on_data_are_refused(operator: str) -> None:
    facts = facts_of(network(helper.make_node(operator, ["x"], ["y"])))
    with pytest.raises(ModelError, match=f"got {operator}; export the network up to its raw boxes"):
        check_graph(facts, TEN, "net.onnx")


def test_planes_must_be_cast_first() -> None:
    facts = facts_of(network(element=TensorProto.UINT8))
    with pytest.raises(ModelError, match="x of uint8 must be read by Cast alone, got Relu"):
        check_graph(facts, EIGHT, "net.onnx")
    cast = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)
    check_graph(facts_of(network(cast, element=TensorProto.UINT8)), EIGHT, "net.onnx")


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize(
    ("zero", "taken"),
    [(np.int8(0), True), (np.zeros(3, np.int8), True), (np.int8(3), False), (np.uint8(0), False)],
)
def test_zero_points_must_be_zero(zero: np.ndarray, taken: bool, constant: bool) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    weights = {"s": np.full(np.shape(zero), 0.1, np.float32), "z": np.asarray(zero)}
    if constant:
        value = numpy_helper.from_array(weights.pop("z"))
        nodes.insert(0, helper.make_node("Constant", [], ["z"], value=value))
    facts = facts_of(network(*nodes, weights=weights))
    assert facts.precision == "int8"
    for release in RELEASES:
        if taken:
            check_graph(facts, release, "net.onnx")
        else:
            with pytest.raises(ModelError, match="zero points of 0 for TensorRT, got others; quan"):
                check_graph(facts, release, "net.onnx")


@pytest.mark.parametrize("shape", [("batch", 3, "h", "w"), ("batch", 3, 8, "w"), ()])
def test_sizes_that_cannot_be_fixed(shape: tuple[int | str, ...]) -> None:
    with pytest.raises(ModelError, match=r"only the first axis, the batch, may .* fixed length of"):
        check_graph(facts_of(network(shape=shape)), EIGHT, "net.onnx")


def test_weights_in_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(convolution(), path, save_as_external_data=True, size_threshold=0)
    with pytest.raises(ModelError, match=r"weights must lie in the ONNX file, .* save it as one"):
        check_graph(read_graph(path.read_bytes(), "net.onnx"), EIGHT, "net.onnx")
    onnx.save(onnx.load(path), path, save_as_external_data=False)
    check_graph(read_graph(path.read_bytes(), "net.onnx"), EIGHT, "net.onnx")


def test_documented_operators_only_grow() -> None:
    eight, ten = documented(8), documented(10)
    assert eight is not None
    assert ten is not None
    assert eight < ten
    assert {"Conv", "Resize", "QuantizeLinear"} <= eight
    assert documented(11) is None


# ------------------------------------------------------------------------------- each release


def test_precision_lies_in_the_graph_and_flags_only_allow_it() -> None:
    plain = facts_of(convolution())
    half = read_graph(lower(convolution().SerializeToString(), "fp16", "n"), "n")
    scale = np.float32(0.1)
    quantised = facts_of(
        network(
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
            weights={"s": np.array(scale), "z": np.array(0, np.int8)},
        )
    )
    flags = {
        release.text: [
            release.builder_flags(facts, version_compatible=False)
            for facts in (plain, half, quantised)
        ]
        for release in RELEASES
    }
    assert flags.pop("8.6.0") == [(), ("FP16",), ("INT8",)]
    assert set(map(str, flags.values())) == {str([(), (), ()])}
    assert EIGHT.builder_flags(half, version_compatible=True) == ("FP16", "VERSION_COMPATIBLE")
    assert [release.network_flags for release in RELEASES] == [
        ("EXPLICIT_BATCH",),
        ("STRONGLY_TYPED",),
        ("STRONGLY_TYPED",),
        (),
    ]
    assert [bool(release.preview_features) for release in RELEASES] == [True, False, False, False]


def test_releases_before_8_6_are_refused() -> None:
    with pytest.raises(EngineUnavailable, match=r"8\.6 or newer, got 8\.5\.3; pip install"):
        Release.parse("8.5.3")


def test_an_engine_runs_on_its_release_unless_it_was_built_for_more() -> None:
    assert TEN.key(version_compatible=False) == "tensorrt 10.0.1"
    compatible = {release.key(version_compatible=True) for release in RELEASES[1:3]}
    assert compatible == {"tensorrt 10 compatible"}


def test_bf16_is_refused_by_8_6_alone() -> None:
    facts = read_graph(lower(convolution().SerializeToString(), "bf16", "n"), "n")
    assert facts.precision == "bf16"
    with pytest.raises(ModelError, match="got bf16; build with precision fp16, or install Tens"):
        check_graph(facts, EIGHT, "net.onnx")
    check_graph(facts, TEN, "net.onnx")
    check_graph(facts, ELEVEN, "net.onnx")


# ------------------------------------------------------------------------------- precision


@pytest.mark.parametrize(
    ("asked", "own", "given"),
    [
        (None, "fp32", "fp32"),
        (None, "int8", "int8"),
        ("auto", "fp32", "fp16"),
        ("auto", "int8", "int8"),
        ("f16", "fp32", "fp16"),
        ("f32", "fp32", "fp32"),
        ("f32", "int8", "int8"),
        ("fp32", "fp16", "fp16"),
        ("tf32", "fp32", "tf32"),
        ("fp16", "fp16", "fp16"),
    ],
)
def test_precision_that_is_built(asked: str | None, own: str, given: str) -> None:
    assert resolve_precision(asked, _of_precision(own), "net.onnx") == given


def test_precision_that_cannot_be_built() -> None:
    with pytest.raises(ModelError, match="must have Q/DQ nodes for precision int8, got fp32; quan"):
        resolve_precision("int8", _of_precision("fp32"), "net.onnx")
    with pytest.raises(ModelError, match="precision must be int8, as the graph says, got fp16"):
        resolve_precision("fp16", _of_precision("int8"), "net.onnx")
    with pytest.raises(ValueError, match=f"must be one of {', '.join(PRECISIONS)}, got 'int4'"):
        resolve_precision("int4", _of_precision("fp32"), "net.onnx")


def _of_precision(precision: str) -> GraphFacts:
    operators = {"QuantizeLinear": "q"} if precision == "int8" else {"Relu": "y"}
    types = {"fp16": "float16", "bf16": "bfloat16"}.get(precision, "float32")
    return GraphFacts(17, (IMAGE,), (IMAGE,), operators, frozenset({types}), {}, False)


def _run(model: bytes, tmp_path: Path, x: np.ndarray) -> np.ndarray:
    path = tmp_path / "run.onnx"
    path.write_bytes(model)
    engine = load_engine(path, device="onnxruntime:cpu")
    result = engine.infer({"x": x})["y"]
    engine.close()
    return np.asarray(result)


def test_a_lowered_graph_computes_nearly_the_same(tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)
    model = convolution().SerializeToString()
    short = lower(model, "fp16", "net.onnx")
    assert len(short) < len(model)
    exact, near = _run(model, tmp_path, x), _run(short, tmp_path, x)
    assert near.dtype == np.float32
    assert 0 < np.abs(exact - near).max() < 2e-3


def test_bf16_computes_nearly_the_same() -> None:
    # ONNX Runtime has no convolution in bf16; the standard's own evaluator does.
    x = {"x": np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)}
    model = convolution()
    short = onnx.load_from_string(lower(model.SerializeToString(), "bf16", "net.onnx"))
    (exact,), (near,) = (
        ReferenceEvaluator(model).run(None, x),
        ReferenceEvaluator(short).run(None, x),
    )
    assert near.dtype == np.float32
    assert 0 < np.abs(exact - near).max() < 1e-2


def test_the_tail_of_a_lowered_graph_stays_exact() -> None:
    # Pixels beyond 1024 have no halves in fp16; boxes are decoded behind the last convolution.
    for precision in ("fp16", "bf16"):
        proto = onnx.load_from_string(lower(convolution().SerializeToString(), precision, "n"))
        kinds = {node.op_type: node for node in proto.graph.node}
        assert kinds["Add"].input[1] == "cell"
        assert kinds["Sigmoid"].input[0] == "c2"
        assert kinds["Resize"].input[2] == "scales", "the standard wants these in fp32"
        stored = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
        assert stored["cell"] == stored["scales"] == TensorProto.FLOAT
        assert TensorProto.FLOAT not in {stored[n] for n in stored if n.startswith(("w", "b"))}
        casts = [node for node in proto.graph.node if node.op_type == "Cast"]
        assert [list(cast.input) for cast in casts] == [["x"], [f"c2/{precision}"]]


def test_weights_too_large_for_fp16_stay_finite(tmp_path: Path) -> None:
    model = network(
        helper.make_node("Clip", ["x", "low", "high"], ["c"]),
        helper.make_node("Conv", ["c", "w"], ["y"]),
        weights={
            "low": np.float32(-1e9), "high": np.float32(np.inf), "w": np.ones((3, 3, 1, 1), "f4"),
        },
    )  # fmt: skip
    short = onnx.load_from_string(lower(model.SerializeToString(), "fp16", "net.onnx"))
    values = {t.name: numpy_helper.to_array(t) for t in short.graph.initializer}
    assert values["low/fp16"] == np.finfo(np.float16).min
    assert values["high/fp16"] == np.inf


def test_branches_are_not_rewritten() -> None:
    body = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["a"])], "body", [],
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, None)],
    )  # fmt: skip
    model = network(
        helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True))),
        helper.make_node("If", ["yes"], ["y"], then_branch=body, else_branch=body),
    )
    with pytest.raises(ModelError, match="no branches and loops to be rewritten in fp16, got If"):
        lower(model.SerializeToString(), "fp16", "net.onnx")


# ------------------------------------------------------------------------------- profiles


def test_profiles_cover_every_size_up_to_the_largest() -> None:
    profiles = make_profiles([IMAGE], (8, 1, 32), "net.onnx")
    assert profiles == (Profile(1, 1), Profile(2, 8), Profile(9, 32))
    assert [p.fixed for p in profiles] == [True, False, False]
    assert [choose(profiles, n, "net") for n in (1, 2, 8, 9, 32)] == [0, 1, 1, 2, 2]
    assert shape_of(IMAGE, 9) == (9, 3, 8, 8)
    with pytest.raises(
        EngineMismatch, match="batch must be 1, 2 to 8, 9 to 32, got 33; send small"
    ):
        choose(profiles, 33, "net.onnx")


def test_a_size_alone_has_fixed_shapes() -> None:
    profiles = make_profiles([IMAGE], (4,), "net.onnx")
    assert profiles == (Profile(4, 4),)
    with pytest.raises(EngineMismatch, match="batch must be 4, got 5"):
        choose(profiles, 5, "net.onnx")


def test_a_graph_of_one_batch_size() -> None:
    fixed = TensorSpec("x", (2, 3, 8, 8), np.dtype("float32"))
    assert make_profiles([fixed], None, "net.onnx") == (Profile(2, 2),)
    for batches in ((1,), (1, 8)):
        with pytest.raises(ModelError, match=r"batch must be 2, as the graph says, got \[1"):
            make_profiles([fixed], batches, "net.onnx")
    assert make_profiles([fixed], (2,), "net.onnx") == (Profile(2, 2),)
    with pytest.raises(ValueError, match=r"must be at least 1, got \[0, 4\]"):
        make_profiles([IMAGE], (4, 0), "net.onnx")


def test_nothing_said_of_batches() -> None:
    assert make_profiles([IMAGE], None, "n") == make_profiles([IMAGE], FREE_BATCHES, "n")


def test_keys_tell_shapes_and_profiles_apart() -> None:
    wider = TensorSpec("x", (None, 3, 8, 9), np.dtype("float32"))
    texts = {
        shapes_text([spec], make_profiles([spec], batches, "n"))
        for spec in (IMAGE, wider)
        for batches in ((1, 8), (1, 9), (8,))
    }
    assert len(texts) == 6


# ------------------------------------------------------------------------------- progress


def test_nested_phases_add_up() -> None:
    heard: list[tuple[str, float]] = []
    tally = Tally(lambda name, done: heard.append((name, round(done, 3))))
    tally.start("build", None, 4)
    tally.step("build", 0)
    tally.start("tactics", "build", 2)
    tally.step("tactics", 0)
    tally.step("tactics", 1)
    tally.finish("tactics")
    tally.step("build", 1)
    tally.finish("build")
    fractions = [done for name, done in heard if name == "build"]
    assert fractions == sorted(fractions) == [0, 0.25, 0.25, 0.375, 0.5, 0.5, 0.5, 1.0]
    assert len(fractions) == len(heard), "inner phases are not heard of on their own"


def test_a_phase_without_steps() -> None:
    heard: list[float] = []
    tally = Tally(lambda _, done: heard.append(done))
    tally.start("setup", None, 0)
    tally.finish("setup")
    assert heard == [0.0, 1.0]


# ------------------------------------------------------------------------------- without a GPU


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    onnx.save(convolution(), path)
    return path


NO_SUCH_GPU = "cuda:63"
"""No machine of the tests has it, so CUDA itself refuses it, with a GPU and without."""


def test_a_gpu_that_is_not_there(saved: Path) -> None:
    pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-python")
    said = (
        r"tensorrt cuda:63: net\.onnx: (an NVIDIA driver must be installed, got none; install it|"
        r"taking GPU 63: .*\(cudaError\w+\); (choose one of the GPUs|install an NVIDIA driver))"
    )
    with pytest.raises(EngineUnavailable, match=said):
        build(saved, device=NO_SUCH_GPU)


@pytest.mark.parametrize(
    ("name", "kind", "remedy"),
    [
        ("cudaErrorMemoryAllocation", EngineFailed, "use a smaller batch or fewer streams"),
        ("cudaErrorIllegalAddress", EngineFailed, "restart the process"),
        ("cudaErrorUnknown", EngineFailed, "load the engine again"),
        ("cudaErrorNoDevice", EngineUnavailable, "check with nvidia-smi"),
        ("cudaErrorInsufficientDriver", EngineUnavailable, "install an NVIDIA driver"),
        ("cudaErrorInvalidDevice", EngineUnavailable, "choose one of the GPUs"),
    ],
)
def test_what_cuda_says_becomes_one_error(name: str, kind: type[Exception], remedy: str) -> None:
    cudart = pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-python")
    from engines.tensorrt.cuda import check

    check("where", "doing", cudart.cudaError_t.cudaSuccess)
    _, words = cudart.cudaGetErrorString(getattr(cudart.cudaError_t, name))
    said = rf"net\.onnx: running x 9x3: {re.escape(words.decode())} \({name}\); {remedy}"
    with pytest.raises(kind, match=said):
        check("net.onnx", "running x 9x3", getattr(cudart.cudaError_t, name))


def test_every_call_is_one_that_cuda_knows() -> None:
    """Without a driver the real library refuses each call, after it has read the arguments."""
    cudart = pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-python")
    if cudart.cudaDriverGetVersion()[1] != 0:
        pytest.skip("the calls would be carried out here; tests/test_tensorrt_gpu.py makes them")
    from engines.tensorrt.cuda import Device, Graph, Stream

    device, stream = Device.__new__(Device), Stream.__new__(Stream)
    device.index = 0
    stream._stream, stream._reached = cudart.cudaStream_t(0), cudart.cudaEvent_t(0)
    graph = Graph("net.onnx", stream._stream)
    graph._ready = cudart.cudaGraphExec_t(0)
    device._where = stream._where = "net.onnx"
    pinned = np.zeros(4, np.uint8)

    def record() -> None:
        with stream.captured("recording"):
            pass

    for call in (
        device.select,
        device.memory_bytes,
        lambda: device.allocate(4, "x"),
        lambda: device.allocate_pinned(4, "x"),
        lambda: Stream("net.onnx"),
        lambda: stream.upload(pinned, 256),
        lambda: stream.download(256, pinned),
        lambda: stream.wait("waiting"),
        record,
        lambda: graph.make(cudart.cudaGraph_t(0), "making"),
        lambda: graph.launch("launching"),
    ):
        with pytest.raises(EngineUnavailable, match=r"^net\.onnx: .*cudaErrorInsufficientDriver"):
            call()
    for give_back in (
        graph.close, stream.close, lambda: device.free(256), lambda: device.free_pinned(pinned)
    ):  # fmt: skip
        give_back()


def test_cuda_without_tensorrt_or_a_gpu_says_what_to_do(saved: Path) -> None:
    with pytest.raises(EngineUnavailable, match=r"cuda:63.*(tensorrt|onnxruntime-gpu|NVIDIA|GPU)"):
        load_engine(saved, device=NO_SUCH_GPU)
    load_engine(saved, device="cpu").close()


def test_tensorrt_that_is_not_installed(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_installed", lambda library: library != "tensorrt")
    with pytest.raises(EngineUnavailable, match=r"tensorrt; pip install 'streamer\[tensorrt\]'"):
        load_engine(saved, device="tensorrt:cuda:0")
    monkeypatch.setattr(loading, "_installed", lambda library: True)
    with pytest.raises(EngineUnavailable, match="cpu: tensorrt runs on cuda; drop the prefix"):
        load_engine(saved, device="tensorrt:cpu")


def test_cuda_takes_tensorrt_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_installed", lambda library: True)
    assert loading.choose_library("cuda:1") == "tensorrt"
    monkeypatch.setattr(loading, "_installed", lambda library: library != "tensorrt")
    assert loading.choose_library("cuda") == "onnxruntime"


def test_what_is_wrong_with_the_file_or_the_options_comes_first(saved: Path) -> None:
    whole = saved.read_bytes()
    with pytest.raises(ModelError, match="must be readable, got No such file"):
        build(saved.with_name("none.onnx"))
    for content in (b"not a network", whole[: len(whole) // 2]):
        saved.write_bytes(content)
        with pytest.raises(ModelError, match=r"file must be (a whole|an) ONNX model"):
            build(saved)
    saved.write_bytes(whole)
    with pytest.raises(ModelError, match="must have Q/DQ nodes for precision int8"):
        build(saved, precision="int8")
    with pytest.raises(ValueError, match=r"at least 1, got \[0\]"):
        build(saved, batches=(0,))
    with pytest.raises(ValueError, match="workspace_mb must be at least 1, got 0"):
        build(saved, workspace_mb=0)


def test_an_engine_file_is_no_network(saved: Path) -> None:
    for content in (b"ftrt\x00\x00\x00\x01 a plan", b"streamer engine 1\n{}\n"):
        saved.write_bytes(content)
        with pytest.raises(ModelError, match=r"got an engine of TensorRT.* give the ONNX file"):
            build(saved)
        with pytest.raises(ModelError, match=r"got an engine of TensorRT.* give the ONNX file"):
            load_engine(saved, device="cpu")


@pytest.mark.parametrize(("device", "index"), [("cuda", 0), ("cuda:0", 0), ("cuda:12", 12)])
def test_device_numbers(device: str, index: int) -> None:
    assert device_index(device) == index


@pytest.mark.parametrize("device", ["cpu", "cuda:", "cuda:x", "gpu"])
def test_devices_that_nothing_is_built_for(device: str) -> None:
    with pytest.raises(ValueError, match="device must be cuda or cuda:<index>, got"):
        device_index(device)


def test_building_imports_nothing_heavy_before_it_must() -> None:
    code = (
        "import sys, engines.build; "
        "print(sorted({'tensorrt', 'cuda', 'onnx', 'onnxruntime', 'torch'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
