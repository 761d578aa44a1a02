"""The engines label as the network in torch does by the same rule, and refuse what is wrong."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import cascade_tiny
import numpy as np
import onnx
import pytest
import torch
from cascade_tiny import HEIGHT, WIDTH, planes
from numpy.typing import NDArray

from engines.cascade import rule
from engines.cascade.dense import dense_model
from engines.cascade.model import Cascade, union
from engines.cascade.picture import fill_input
from engines.cascade.runtime import Segmenter
from engines.cascade.signature import FILES
from engines.cascade.stages import Rule
from engines.errors import EngineUnavailable, ModelError
from engines.load import load_engine

SHARE = 0.3
ROWS, COLUMNS = HEIGHT // 16, WIDTH // 16


@pytest.fixture(scope="module")
def net() -> Cascade:
    return cascade_tiny.oracle(cascade_tiny.random_net())


@pytest.fixture(scope="module")
def rho(net: Cascade) -> float:
    """Confidence that splits the blocks of stage 1, far from any position's own."""
    with torch.no_grad():
        logits = net(_input(0)).logits[0]
    values = logits.softmax(1).amax(1).flatten().sort().values
    middle = values[len(values) * 2 // 5 : len(values) * 3 // 5]
    gap = int(middle.diff().argmax())
    return float(middle[gap : gap + 2].mean())


@pytest.fixture(scope="module")
def folder(net: Cascade, rho: float, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cascade")
    cascade_tiny.exported(path, net, rho, SHARE)
    return path


@pytest.fixture(scope="module", params=["openvino:cpu", "onnxruntime:cpu"])
def segmenter(folder: Path, request: pytest.FixtureRequest) -> Iterator[Segmenter]:
    made = Segmenter.load(folder, device=request.param)
    yield made
    made.close()


def _input(seed: int) -> torch.Tensor:
    out = np.empty((3, HEIGHT, WIDTH), np.uint8)
    fill_input(*planes(seed), out)
    return torch.from_numpy(out)[None]


def _everything() -> NDArray[np.bool_]:
    return np.ones((ROWS, COLUMNS), bool)


@pytest.mark.parametrize("dense_from", [10_000.0, 0.0])
def test_the_engines_equal_torch_by_the_same_rule(
    segmenter: Segmenter, net: Cascade, rho: float, dense_from: float
) -> None:
    stages = segmenter.stages
    before, stages._dense_from = stages._dense_from, dense_from
    stages.stage_of[...] = 0
    stages.run(_input(0)[0].numpy(), _everything())
    stages._dense_from = before
    with torch.no_grad():
        outputs = net(_input(0), rule.Rule(rho, SHARE))
    expected = union(outputs)[0].numpy()
    ran2, ran3 = (ran[0, 0].numpy() for ran in outputs.ran)
    assert 0 < ran3.sum() <= ran2.sum() < ROWS * COLUMNS, "all three stages have something to do"
    assert (stages.stage_of == 1 + ran2.astype(int) + ran3).all()
    assert np.abs(stages.logits - expected).max() < 1e-3


def test_rho_of_one_is_the_plain_network(segmenter: Segmenter, net: Cascade) -> None:
    stages = segmenter.stages
    stages.run(_input(1)[0].numpy(), _everything(), rule=Rule(1.0, SHARE))
    with torch.no_grad():
        plain = net(_input(1)).logits[2][0].numpy()
    assert np.abs(stages.logits - plain).max() < 1e-3


def test_the_dense_graph_is_the_plain_network(folder: Path, net: Cascade, tmp_path: Path) -> None:
    onnx.save(dense_model(folder), tmp_path / "dense.onnx")
    engine = load_engine(tmp_path / "dense.onnx")
    ours = engine.infer({"planes": _input(1).numpy()})["logits"]
    engine.close()
    with torch.no_grad():
        assert np.abs(ours - net(_input(1)).logits[2].numpy()).max() < 1e-3


def test_nothing_undecided_ends_with_stage_one(segmenter: Segmenter) -> None:
    beyond = segmenter.stages.run(_input(0)[0].numpy(), _everything(), rule=Rule(1e-6, SHARE))
    found = segmenter.segment(planes(0), rule=Rule(1e-6, SHARE))
    assert beyond == 0
    assert found.decided == (1.0, 0.0, 0.0)


def test_a_frame_with_little_left_exits_as_a_whole(segmenter: Segmenter) -> None:
    stages = segmenter.stages
    stages.least = ROWS * COLUMNS
    found = segmenter.segment(planes(0))
    stages.least = 0
    assert found.decided == (1.0, 0.0, 0.0)
    assert segmenter.segment(planes(0)).decided[2] > 0


def test_unwanted_blocks_keep_their_scores(segmenter: Segmenter) -> None:
    stages = segmenter.stages
    stages.run(_input(0)[0].numpy(), _everything())
    before = stages.logits.copy()
    wanted = np.zeros((ROWS, COLUMNS), bool)
    wanted[2, 3:5] = True
    stages.run(_input(4)[0].numpy(), wanted)
    changed = np.abs(stages.logits - before).max(axis=0) > 0
    blocks = changed.reshape(ROWS, 4, COLUMNS, 4).any(axis=(1, 3))
    assert (blocks == wanted).all()


@pytest.mark.parametrize(
    ("width", "height"), [(128, 96), (640, 360), (33, 57), (1, 40), (40, 1), (1, 1), (2000, 3)]
)
def test_frames_of_any_size_are_labelled(segmenter: Segmenter, width: int, height: int) -> None:
    found = segmenter.segment(planes(2, width, height))
    assert found.labels.shape == (found.height, found.width)
    assert found.width <= WIDTH
    assert found.height <= HEIGHT
    assert found.labels.max() < len(segmenter.classes)
    assert found.shares.sum() == pytest.approx(1, abs=1e-5)
    assert sum(found.decided) == pytest.approx(1)
    assert found.carried == 0


@pytest.mark.parametrize("out_stride", [2, 4])
def test_smaller_maps_say_the_same(folder: Path, segmenter: Segmenter, out_stride: int) -> None:
    small = Segmenter.load(folder, out_stride=out_stride)  # type: ignore[arg-type]
    ours, whole = small.segment(planes(3)), segmenter.segment(planes(3))
    small.close()
    assert (ours.width, ours.height) == (WIDTH // out_stride, HEIGHT // out_stride)
    step = whole.labels[out_stride // 2 :: out_stride, out_stride // 2 :: out_stride]
    assert (ours.labels == step).mean() > 0.9


def test_fewer_stages_can_be_used(segmenter: Segmenter) -> None:
    segmenter.stages.stage_of[...] = 0
    segmenter.stages.run(_input(0)[0].numpy(), _everything(), last=2)
    assert set(np.unique(segmenter.stages.stage_of)) == {1, 2}


@pytest.mark.parametrize("wrong", [0.0, 1.5, float("nan")])
def test_rho_outside_its_range_is_refused(folder: Path, wrong: float) -> None:
    with pytest.raises(ValueError, match=r"rho must be in \(0, 1\], got .*; 1 sends everything"):
        Segmenter.load(folder, rho=wrong)
    Segmenter.load(folder, rho=1).close()


def test_share_outside_its_range_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"share must be in \[0, 1\), got -0.1"):
        Segmenter.load(folder, share=-0.1)


def test_an_unknown_out_stride_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="out_stride must be 1, 2 or 4, got 3"):
        Segmenter.load(folder, out_stride=3)  # type: ignore[arg-type]


def test_a_class_file_of_another_length_is_refused_and_a_fitting_one_works(
    folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("sky  # above\nroad\n\n")
    with pytest.raises(ModelError, match=r"classes\.txt: class file must name 11 different.*got 2"):
        Segmenter.load(folder, classes_file=path)
    path.write_text("\n".join(f"kind {index}" for index in range(11)))
    made = Segmenter.load(folder, classes_file=path)
    made.close()
    assert made.classes[10] == "kind 10"
    with pytest.raises(ModelError, match="class file must be readable text"):
        Segmenter.load(folder, classes_file=tmp_path)


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("device", ["openvino:cpu", "onnxruntime:cpu"])
def test_weights_that_are_no_numbers_are_refused(
    net: Cascade, rho: float, tmp_path: Path, stage: int, device: str
) -> None:
    broken = cascade_tiny.oracle(net)
    with torch.no_grad():
        getattr(broken, f"stage{stage}").head[1].weight[0, 0] = float("nan")
    cascade_tiny.write_unchecked(tmp_path, broken, rho)
    with pytest.raises(ModelError, match="must be numbers, got NaN"):
        Segmenter.load(tmp_path, device=device)


def test_a_missing_folder_and_a_missing_stage_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r'must be "cascade" or a folder with stage1\.onnx'):
        Segmenter.load(tmp_path / "nowhere")
    shutil.copy(folder / FILES[0], tmp_path)
    with pytest.raises(ModelError, match=r"stage2\.onnx: model file must be readable"):
        Segmenter.load(tmp_path)


def test_stages_of_different_cascades_are_refused(
    folder: Path, net: Cascade, rho: float, tmp_path: Path
) -> None:
    cascade_tiny.exported(tmp_path, net, rho / 2, SHARE)
    shutil.copy(folder / FILES[2], tmp_path)
    with pytest.raises(ModelError, match=r"stage3\.onnx: rho must be .* as in stage1\.onnx"):
        Segmenter.load(tmp_path)
    shutil.copy(folder / FILES[0], tmp_path / FILES[1])
    with pytest.raises(ModelError, match=r"stage2\.onnx: file must be stage 2 of a cascade"):
        Segmenter.load(tmp_path)


def test_planes_that_are_not_420_are_refused(segmenter: Segmenter) -> None:
    y, u, v = planes(0)
    with pytest.raises(ValueError, match=r"u and v must be \(48, 64\) for luma \(96, 128\)"):
        segmenter.segment((y, y, v))
    with pytest.raises(ValueError, match="matrix must be one of"):
        segmenter.segment((y, u, v), "bt2020")
    with pytest.raises(ValueError, match=r"y must be \(H, W\) and not empty"):
        segmenter.segment((y[:0], u, v))


def test_devices_that_are_not_here_are_refused(folder: Path) -> None:
    with pytest.raises(EngineUnavailable):
        Segmenter.load(folder, device="onnxruntime:npu")


def test_many_blocks_are_run_in_parts(
    segmenter: Segmenter, net: Cascade, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = segmenter.stages
    monkeypatch.setattr("engines.cascade.stages.BUCKETS", (3, 7))
    monkeypatch.setattr(stages, "_dense_from", 10_000.0)
    stages.run(_input(1)[0].numpy(), _everything(), rule=Rule(1.0, SHARE))
    with torch.no_grad():
        plain = net(_input(1)).logits[2][0].numpy()
    assert np.abs(stages.logits - plain).max() < 1e-3
