"""Networks written as ONNX: opset, free batch, equality with torch, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torchvision
from torch import Tensor, nn

from engines.errors import ModelError
from engines.export import OPSET, TOLERANCE, export
from engines.load import load_engine
from engines.onnxfile import read_metadata
from engines.onnxgraph import read_graph
from engines.tensorrt.checks import check_graph
from engines.tensorrt.release import Release


class TwoHeads(nn.Module):  # type: ignore[misc]
    """Two inputs, two outputs, a constant part that folds away, planes of uint8."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.SiLU())
        self.head = nn.Linear(8, 5)

    def forward(self, planes: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
        grid = torch.arange(0, 12, dtype=torch.float32).reshape(3, 4).sum(0).mean()
        x = self.body(planes.to(gain.dtype) / 255) * gain[:, :, None, None]
        return self.head(x.mean((2, 3))), x.flatten(1) + grid


@pytest.fixture
def example() -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)
    planes = torch.randint(0, 256, (3, 3, 16, 24), dtype=torch.uint8, generator=random)
    return {"planes": planes, "gain": torch.rand(3, 8, generator=random)}


def test_export_equals_torch_at_any_batch(example: dict[str, Tensor], tmp_path: Path) -> None:
    net, path = TwoHeads(), tmp_path / "net.onnx"
    for _ in range(3):  # batch norms with statistics that matter
        net.train()(**example)
    difference = export(net, example, path, outputs=["a", "b"], metadata={"classes": "x,y"})
    assert difference <= TOLERANCE
    assert read_metadata(path) == {"classes": "x,y"}
    engine = load_engine(path, device="onnxruntime:cpu")
    assert [str(s) for s in engine.inputs] == ["planes ?x3x16x24 uint8", "gain ?x8 float32"]
    assert [str(s) for s in engine.outputs] == ["a ?x5 float32", "b ?x768 float32"]
    for batch in (1, 2, 7):
        planes = torch.randint(0, 256, (batch, 3, 16, 24), dtype=torch.uint8)
        gain = torch.rand(batch, 8)
        got = engine.infer({"planes": planes.numpy(), "gain": gain.numpy()})
        with torch.no_grad():
            wanted = net(planes, gain)
        for name, tensor in zip("ab", wanted, strict=True):
            np.testing.assert_allclose(got[name], tensor.numpy(), atol=TOLERANCE)
    engine.close()


def test_export_is_what_every_tensorrt_parses(example: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    export(TwoHeads(), example, path, outputs=["a", "b"])
    (opset,) = onnx.load(path).opset_import
    assert (opset.domain, opset.version) == ("", OPSET)
    assert OPSET == 17
    facts = read_graph(path.read_bytes(), "net.onnx")
    check_graph(facts, Release.parse("8.6.0"), "net.onnx")
    folded = {"BatchNormalization", "Range", "Shape", "Identity", "ConstantOfShape"}
    assert not folded & facts.operators.keys(), "constants and batch norms are folded"


class Restless(nn.Module):  # type: ignore[misc]
    """Computes something else than what its export remembers."""

    def __init__(self, nonsense: float) -> None:
        super().__init__()
        self.nonsense = nonsense
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x + (0.0 if self.calls <= 2 else self.nonsense)


@pytest.mark.parametrize("nonsense", [0.01, float("nan")])
def test_an_export_that_differs_is_not_written(nonsense: float, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"the one before")
    with pytest.raises(ModelError, match=r"net\.onnx: export must equal torch within 0\.0001, dif"):
        export(Restless(nonsense), {"x": torch.rand(2, 3)}, path, outputs=["y"])
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [
        ("net.onnx", b"the one before")
    ]
    assert export(Restless(0.0), {"x": torch.rand(2, 3)}, path, outputs=["y"]) == 0
    assert path.read_bytes() != b"the one before"


class Frozen(nn.Module):  # type: ignore[misc]
    """Remembers the batch size that it was traced with."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(int(x.shape[0]), -1)[: int(x.shape[0]) - 1]


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_batch_that_is_not_free_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"batch must be free, got .* for a batch of 1; take"):
        export(Frozen(), {"x": torch.rand(3, 2, 2)}, tmp_path / "net.onnx", outputs=["y"])
    assert list(tmp_path.iterdir()) == []


class Unknown(nn.Module):  # type: ignore[misc]
    """Has an operator that ONNX lacks."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvals(x).real


def test_an_operator_without_onnx(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"operators of opset 17, got .*eigvals.*; replace that op"
    ):
        export(Unknown(), {"x": torch.rand(2, 3, 3)}, tmp_path / "net.onnx", outputs=["y"])
    assert list(tmp_path.iterdir()) == []


def test_one_example_is_too_few(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"at least 2 along the first axis, got .*; stack two"):
        export(nn.ReLU(), {"x": torch.rand(1, 3)}, tmp_path / "net.onnx", outputs=["y"])


class SsdHeads(nn.Module):  # type: ignore[misc]
    """torchvision's SSDLite up to its raw outputs."""

    def __init__(self) -> None:
        super().__init__()
        build = torchvision.models.detection.ssdlite320_mobilenet_v3_large
        model = build(weights=None, weights_backbone=None)
        self.backbone, self.head = model.backbone, model.head

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        found = self.head(list(self.backbone(images).values()))
        return found["cls_logits"], found["bbox_regression"]


def test_a_public_detector_compiles_to_tensorrt(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "ssd.onnx"
    net = SsdHeads()
    for parameter in net.parameters():  # the usual start is so small that all outputs vanish
        nn.init.normal_(parameter, std=0.05)
    images = torch.rand(2, 3, 320, 320)
    assert export(net, {"images": images}, path, outputs=["scores", "boxes"]) <= TOLERANCE
    facts = read_graph(path.read_bytes(), "ssd.onnx")
    assert [str(spec) for spec in facts.outputs] == [
        "scores ?x3234x91 float32",
        "boxes ?x3234x4 float32",
    ]
    check_graph(facts, Release.parse("8.6.0"), "ssd.onnx")
