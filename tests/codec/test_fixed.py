"""Graphs of one picture size: what TensorRT asks for, checked with engines that a CPU has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from codec_tiny import moving_pictures, tiny_model

from engines.codec import graphs
from engines.codec.fixed import fix_sizes
from engines.codec.graphs import Graphs, runs_fixed_sizes
from engines.codec.runtime import RtRuntime
from engines.errors import ModelError
from engines.load import load_engine
from engines.onnxgraph import read_graph
from engines.precision import lower
from engines.tensorrt.checks import check_graph
from engines.tensorrt.release import Release

FEATURES, HALF = (1, 16, 16, 24), (1, 8, 12)
SHAPES = {
    "encode_intra": {"blocks": (1, 96, 16, 24), "quality": HALF},
    "encode_inter": {
        "blocks": (1, 96, 16, 24), "quality": HALF, "memory": FEATURES, "change": (1, 96, 16, 24),
    },
    "decode_intra": {"q": (1, 20, 8, 12), "z": (1, 4, 2, 3), "quality": HALF},
    "decode_inter": {
        "q": (1, 20, 8, 12), "z": (1, 4, 2, 3), "quality": HALF, "memory": FEATURES,
        "change": (1, 96, 16, 24),
    },
    "refresh": {"memory": FEATURES},
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("release", ["8.6.1", "10.3.0"])
def test_tensorrt_takes_every_graph_of_one_size(name, release):
    fixed = fix_sizes(tiny_model() / f"{name}.onnx", SHAPES[name])
    facts = read_graph(fixed, name)
    check_graph(facts, Release.parse(release), name)
    assert facts.precision == "fp32"
    assert all(None not in spec.shape for spec in (*facts.inputs, *facts.outputs))
    half = read_graph(lower(fixed, "fp16", name), name)
    check_graph(half, Release.parse(release), name)
    assert half.precision == "fp16"


@pytest.mark.parametrize("name", SHAPES)
def test_a_graph_of_one_size_computes_the_same(name):
    path = tiny_model() / f"{name}.onnx"
    rng = np.random.default_rng(0)
    inputs = {
        key: rng.integers(0, 64, shape)
        if key == "quality"
        else rng.normal(0, 2, shape).round().astype(np.float32)
        for key, shape in SHAPES[name].items()
    }
    fixed = fix_sizes(path, SHAPES[name])
    session = onnxruntime.InferenceSession(fixed, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    want = load_engine(path, device="onnxruntime:cpu").infer(inputs)
    for key, got in zip(names, session.run(names, inputs), strict=True):
        np.testing.assert_allclose(got, want[key], atol=1e-4)


def test_only_tensorrt_wants_fixed_sizes():
    assert runs_fixed_sizes("tensorrt:cuda:0")
    assert not runs_fixed_sizes("onnxruntime:cuda")
    assert not runs_fixed_sizes("auto")


def test_a_codec_makes_an_engine_for_each_size(monkeypatch):
    monkeypatch.setattr(graphs, "runs_fixed_sizes", lambda device: True)
    loaded = []

    def load(path: Path, **options: object):
        engine = load_engine(path, **options)
        loaded.append(engine.inputs[0].shape)
        return engine

    monkeypatch.setattr(graphs, "load_engine", load)
    codec, free = (RtRuntime(tiny_model(), device="onnxruntime:cpu") for _ in range(2))
    free._graphs._fixes_sizes = False
    for width, height in ((100, 70), (64, 64), (64, 64)):
        picture = moving_pictures(1, width, height)[0]
        payload, _ = codec.compress(picture, None, quality=20)
        assert payload == free.compress(picture, None, quality=20)[0]
    assert loaded == [(1, 96, 16, 16), (1, 96, None, None), (1, 96, 8, 8)]


def test_shapes_that_a_graph_has_not_are_refused(tmp_path):
    path = tiny_model() / "refresh.onnx"
    with pytest.raises(ModelError, match=r"a graph must fit the shapes .*memory with an axis of 1"):
        fix_sizes(path, {"memory": (1, 17, 8, 8)})
    with pytest.raises(ModelError, match=r"inputs must be \['q'\], got 'memory'"):
        fix_sizes(path, {"q": (1, 1, 8, 8)})
    with pytest.raises(ModelError, match=r"missing\.onnx: a graph must fit"):
        Graphs(tmp_path, device="tensorrt:cuda", threads=1, precision=None).run(
            "missing", {"memory": np.zeros(FEATURES, np.float32)}
        )
