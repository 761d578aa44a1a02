"""Make networks on a pretrained backbone, and keep trained ones in files; offline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from engines.detectors.train import load_average
from engines.off.backbones import Backbone, make_backbone
from engines.off.colour import Rgb
from engines.off.config import BackboneName, Block, Config, Level, Modality
from engines.off.model import OffNet

PLANES_SCALE = 128
"""What the detector divides its planes by."""
SHIPPED_BACKBONE = Path(__file__).parent.parent / "zoo" / "off" / "backbone.npz"
"""What all shipped recognisers see with."""


def initial_net(
    backbone: str,
    classes: int,
    size: tuple[int, int],
    modality: Modality = "rgb",
    levels: Sequence[str] = ("8", "16", "32"),
) -> OffNet:
    """Make a small network on a pretrained backbone; heads and OFF are drawn from torch's seed.

    Args:
        backbone: run of engines.off.pretrain, an .npz of save_backbone, or "random".
        classes: of its heads.
        size: width and height of its input.
        modality: of its input; for differences the backbone starts from that of pictures.
        levels: strides that have units.
    """
    config = Config.small(classes, width=size[0], height=size[1]).with_levels(levels)
    if backbone == "random":
        net = OffNet(replace(config, modality=modality))
        torch.manual_seed(0)  # the same one each time, as its maps are cached
        net.backbone = make_backbone(config.backbone, width=config.backbone_width)
        return net
    loaded = load_backbone(Path(backbone))
    net = OffNet(
        replace(config, modality=modality, backbone=loaded.name, backbone_width=loaded.width)
    )
    net.backbone = loaded
    return net


def load_backbone(path: Path) -> Backbone:
    """Load the backbone of a run of engines.off.pretrain, or of an .npz of save_backbone."""
    if path.suffix == ".npz":
        return _load_npz(path)
    try:
        state = torch.load(path / "checkpoint.pt", map_location="cpu", weights_only=True)
    except OSError as error:
        raise SystemExit(
            f"{path}: backbone must be an .npz or a run of engines.off.pretrain, got {error}"
        ) from None
    backbone = make_backbone(state["backbone"], width=state["width"])
    prefix = "backbone."
    backbone.load_state_dict(
        {k[len(prefix) :]: v for k, v in state["student"].items() if k.startswith(prefix)}
    )
    return backbone


def detector_backbone(run: Path) -> Backbone:
    """Take the trunk of a run of engines.detectors.train, made to be fed RGB instead of planes."""
    net = load_average(run)
    backbone = make_backbone("street")
    (stem, stage3), stage4, stage5 = backbone.stages
    for mine, trained in (
        (stem, net.stem), (stage3, net.stage3), (stage4, net.stage4), (stage5, net.stage5)
    ):  # fmt: skip
        mine.load_state_dict(trained.state_dict())
    colour = Rgb()
    to_planes = colour.weight[:, :, 0, 0].inverse() / PLANES_SCALE
    convolution, norm = stem[0][0], stem[0][1]
    with torch.no_grad():
        kernel = torch.einsum("oihw,ij->ojhw", convolution.weight, to_planes)
        norm.running_mean += torch.einsum("ojhw,j->o", kernel, colour.bias)
        convolution.weight.copy_(kernel)
    return backbone


def save_backbone(backbone: Backbone, path: Path) -> None:
    """Write a backbone in fp16."""
    arrays = {
        key: value.numpy().astype(np.float16 if value.is_floating_point() else np.int64)
        for key, value in backbone.state_dict().items()
    }
    np.savez_compressed(
        path, name_of_backbone=backbone.name, width_of_backbone=backbone.width, **arrays
    )


def _load_npz(path: Path) -> Backbone:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            state = {key: arrays[key] for key in arrays.files}
            name: BackboneName = str(state.pop("name_of_backbone"))  # type: ignore[assignment]
            backbone = make_backbone(name, width=float(state.pop("width_of_backbone")))
    except (OSError, KeyError) as error:
        raise SystemExit(
            f"{path}: must be a backbone of engines.off, got {error}; write it with save_backbone"
        ) from None
    backbone.load_state_dict(
        {
            key: torch.from_numpy(value.astype(np.float32) if value.dtype == np.float16 else value)
            for key, value in state.items()
        }
    )
    return backbone


def save_net(net: OffNet, path: Path, step: str = "") -> None:
    """Write weights and configuration, and what step of training they come from."""
    torch.save({"config": asdict(net.config), "net": net.state_dict(), "step": step}, path)


def load_net(path: Path) -> OffNet:
    """Read what save_net or a checkpoint of engines.off.train holds."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    config = dict(state["config"])
    levels = tuple(
        Level(**{**level, "blocks": tuple(Block(**block) for block in level["blocks"])})
        for level in config.pop("levels")
    )
    net = OffNet(Config(levels=levels, **config))
    net.load_state_dict(state["net"])
    net.eval()
    return net
