"""Turn torchvision's detectors into ONNX files that say how to feed and read them; offline.

One-stage networks end with their raw outputs; decoding is in anchored.py. Two-stage ones keep
proposals, RoiAlign and suppression inside the graph, which TensorRT does not take.

    python -m engines.detectors.torchvision_export ssdlite320 WEIGHTS.pth OUT.onnx
"""

from __future__ import annotations

import argparse
import io
import pickle  # for the name of an error alone; nothing is unpickled here
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
import torchvision
from onnx import helper
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.image_list import ImageList

from engines.detectors.families import FAMILIES
from engines.errors import ModelError
from engines.export import OPSET, TOLERANCE, export
from engines.load import load_engine

_INPUT = "picture"


@dataclass(frozen=True, slots=True)
class Recipe:
    """One family of torchvision."""

    build: Callable[..., nn.Module]
    width: int
    height: int
    outputs: tuple[str, ...]


_RAW = ("boxes", "logits")
_SETTLED = ("boxes", "scores", "labels")
RECIPES = {
    "ssdlite320": Recipe(detection.ssdlite320_mobilenet_v3_large, 320, 320, _RAW),
    "ssd300": Recipe(detection.ssd300_vgg16, 300, 300, _RAW),
    "retinanet": Recipe(detection.retinanet_resnet50_fpn, 800, 800, _RAW),
    "fcos": Recipe(detection.fcos_resnet50_fpn, 800, 800, (*_RAW, "central")),
    "fasterrcnn": Recipe(detection.fasterrcnn_mobilenet_v3_large_320_fpn, 512, 320, _SETTLED),
    "maskrcnn": Recipe(detection.maskrcnn_resnet50_fpn, 800, 800, (*_SETTLED, "masks")),
}
"""By the name of the family in families.py."""


class _Normalised(nn.Module):  # type: ignore[misc]
    """uint8 RGB pictures, normalised inside the graph as torchvision's transform does."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor(net.transform.image_mean).reshape(3, 1, 1))
        self.register_buffer("std", torch.tensor(net.transform.image_std).reshape(3, 1, 1))

    def normalise(self, pictures: Tensor) -> Tensor:
        return (pictures.float() / 255 - self.mean) / self.std


class _OneStage(_Normalised):
    """Pictures to raw outputs."""

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        maps = list(self.net.backbone(self.normalise(pictures)).values())
        raw = self.net.head(maps)
        names = ("bbox_regression", "cls_logits", "bbox_ctrness")
        return tuple(raw[name] for name in names if name in raw)


class _TwoStage(_Normalised):
    """One picture to settled boxes, with a batch axis of one before each output."""

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        size = (pictures.shape[2], pictures.shape[3])
        images = ImageList(self.normalise(pictures), [size])
        maps = self.net.backbone(images.tensors)
        proposals, _ = self.net.rpn(images, maps)
        found = self.net.roi_heads(maps, proposals, [size])[0][0]
        settled = [found["boxes"], found["scores"], found["labels"]]
        if "masks" in found:
            settled.append(found["masks"][:, 0])
        return tuple(tensor[None] for tensor in settled)


def build(family: str, *, classes: int | None = None) -> nn.Module:
    """Make a network with random weights.

    Args:
        family: one of RECIPES.
        classes: the background counts; None is COCO's 91.
    """
    quiet = {} if classes is None else {"num_classes": classes}
    net: nn.Module = RECIPES[family].build(weights=None, weights_backbone=None, **quiet)
    return net.eval()


def load(family: str, weights: Path) -> nn.Module:
    """Make a network with the weights of a file of torchvision.

    Raises:
        ModelError: the file is no weights of this network.
    """
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        net = build(family)
        net.load_state_dict(state)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError, TypeError) as error:
        raise ModelError(
            f"{weights}: file must hold torchvision's weights of {family}, got something else "
            f"({str(error).splitlines()[0]}); pull it again"
        ) from error
    return net


def export_detector(
    net: nn.Module,
    family: str,
    path: Path,
    *,
    size: tuple[int, int] | None = None,
    classes: Sequence[str] = (),
    licence: str = "",
) -> None:
    """Write a torchvision detector as ONNX.

    Args:
        net: of that family.
        family: one of RECIPES.
        path: file to write.
        size: (width, height) of the input; None is the usual one. SSD has one size only.
        classes: their names in order, the background "-" first; none is COCO's.
        licence: of the weights.

    Raises:
        ModelError: the export differs from torch; nothing was written.
    """
    recipe = RECIPES[family]
    width, height = size or (recipe.width, recipe.height)
    said = {"family": family, "licence": licence, "classes": ",".join(classes)}
    metadata = {key: value for key, value in said.items() if value}
    random = np.random.default_rng(0)
    if FAMILIES[family].compiles:
        pictures = random.integers(0, 256, (2, 3, height, width), np.uint8)
        example = {_INPUT: torch.from_numpy(pictures)}
        with warnings.catch_warnings():
            # Tracing turns sizes into constants, which is right for a fixed input.
            warnings.simplefilter("ignore", torch.jit.TracerWarning)
            export(_OneStage(net), example, path, outputs=recipe.outputs, metadata=metadata)
        return
    picture = torch.from_numpy(random.integers(0, 256, (1, 3, height, width), np.uint8))
    _export_whole(_TwoStage(net).eval(), picture, path, recipe.outputs, metadata)


def _export_whole(
    net: nn.Module, picture: Tensor, path: Path, outputs: Sequence[str], metadata: dict[str, str]
) -> None:
    """Write a network whose outputs have as many rows as there are objects."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as above, and of operators that older opsets had
        torch.onnx.export(
            net, (picture,), buffer, input_names=[_INPUT], output_names=list(outputs),
            dynamic_axes={name: {1: "objects"} for name in outputs}, opset_version=OPSET,
            dynamo=False,
        )  # fmt: skip
    model = onnx.load_from_string(buffer.getvalue())
    for value in model.graph.output:
        _name_axes(value)
    helper.set_model_props(model, metadata)
    unchecked = path.with_name(f"{path.name}.unchecked")
    onnx.save(model, unchecked)
    try:
        _compare(net, picture, unchecked, outputs)
        unchecked.replace(path)
    finally:
        unchecked.unlink(missing_ok=True)


def _name_axes(value: onnx.ValueInfoProto) -> None:
    """Write the known lengths: one picture, any number of objects, corners of boxes."""
    lengths: dict[str, tuple[int | str, ...]] = {
        "boxes": (1, "objects", 4),
        "masks": (1, "objects", 28, 28),
    }
    shape = value.type.tensor_type.shape
    del shape.dim[:]
    for length in lengths.get(value.name, (1, "objects")):
        dim = shape.dim.add()
        if isinstance(length, str):
            dim.dim_param = length
        else:
            dim.dim_value = length


def _compare(net: nn.Module, picture: Tensor, path: Path, outputs: Sequence[str]) -> None:
    """Refuse a file whose scores are not torch's; boxes of equal scores may change places."""
    engine = load_engine(path, device="onnxruntime:cpu")
    ours = engine.infer({_INPUT: picture.numpy()})
    engine.close()
    with torch.no_grad():
        theirs = dict(zip(outputs, net(picture), strict=True))
    wanted = theirs["scores"].numpy()
    got = ours["scores"]
    if got.shape != wanted.shape or not np.allclose(got, wanted, atol=TOLERANCE):
        raise ModelError(
            f"{path.name}: export must equal torch within {TOLERANCE}, got {got.shape[1]} objects "
            f"for {wanted.shape[1]} or other scores; use another release of torch"
        )


def main(argv: Sequence[str] | None = None) -> None:
    """Export from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("family", choices=RECIPES)
    parser.add_argument("weights", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args(argv)
    export_detector(load(options.family, options.weights), options.family, options.out)
    sys.stdout.write(f"{options.out}: torchvision {torchvision.__version__} {options.family}\n")


if __name__ == "__main__":
    main()
