"""Turn a `dvc` network into the graphs and integer tables of a model folder; offline.

python -m engines.codec.dvc_export --run RUN --out MODEL
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engines.codec.checkpoint import load_average
from engines.codec.dvc import CONFIGS, SYMBOL_LIMIT, DvcCodec, InterCodec, ResidualCodec
from engines.codec.export import (
    density_counts,
    export_graph,
    laplace_counts,
    packed_tables,
    round_to_float16,
)
from engines.codec.model import ENTROPY_FILE
from engines.codec.rt import FIXED_POINT
from engines.codec.scales import SCALE_LEVELS
from engines.codec.share import share_weights


class EncodeIntra(nn.Module):  # type: ignore[misc]
    """now to y, z and the decoded picture."""

    def __init__(self, residual: ResidualCodec) -> None:
        super().__init__()
        self.residual = residual

    def forward(self, now: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See ResidualCodec."""
        y, z = _analyse(self.residual, now - 0.5)
        return y, z, (self.residual.g_s(y) + 0.5).clamp(0, 1)


class EncodeInter(nn.Module):  # type: ignore[misc]
    """now and reference to m, y, z and the decoded picture."""

    def __init__(self, inter: InterCodec) -> None:
        super().__init__()
        self.inter = inter

    def forward(self, now: Tensor, reference: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See InterCodec."""
        m = torch.round(self.inter.motion_encoder(self.inter.flow(now, reference)))
        m = m.clamp(-SYMBOL_LIMIT, SYMBOL_LIMIT)
        _, predicted = self.inter.predict(m, reference)
        y, z = _analyse(self.inter.residual, now - predicted)
        return m, y, z, (predicted + self.inter.residual.g_s(y)).clamp(0, 1)


class DecodeIntra(nn.Module):  # type: ignore[misc]
    """y to the decoded picture."""

    def __init__(self, residual: ResidualCodec) -> None:
        super().__init__()
        self.residual = residual

    def forward(self, y: Tensor) -> Tensor:
        """See ResidualCodec."""
        return (self.residual.g_s(y) + 0.5).clamp(0, 1)


class DecodeInter(nn.Module):  # type: ignore[misc]
    """m, y and reference to the decoded picture."""

    def __init__(self, inter: InterCodec) -> None:
        super().__init__()
        self.inter = inter

    def forward(self, m: Tensor, y: Tensor, reference: Tensor) -> Tensor:
        """See InterCodec."""
        _, predicted = self.inter.predict(m, reference)
        return (predicted + self.inter.residual.g_s(y)).clamp(0, 1)


def _analyse(residual: ResidualCodec, r: Tensor) -> tuple[Tensor, Tensor]:
    y = residual.g_a(r)
    z = torch.round(residual.h_a(y.abs())).clamp(-SYMBOL_LIMIT, SYMBOL_LIMIT)
    return torch.round(y), z


def export_dvc(codec: DvcCodec, folder: Path) -> None:
    """Write a whole model folder."""
    folder.mkdir(parents=True, exist_ok=True)
    round_to_float16(codec)
    codec = codec.float().eval().cpu()
    _export_integers(codec, folder)
    config = codec.config
    picture = torch.rand(1, 3, 128, 192)
    y, m = torch.zeros(1, config.latents, 8, 12), torch.zeros(1, config.motion, 8, 12)
    after = "next_reference"
    for name, network, inputs, outputs in (
        ("encode_intra", EncodeIntra(codec.intra), {"now": picture}, ("y", "z", after)),
        (
            "encode_inter",
            EncodeInter(codec.inter),
            {"now": picture, "reference": picture},
            ("m", "y", "z", after),
        ),
        ("decode_intra", DecodeIntra(codec.intra), {"y": y}, (after,)),
        (
            "decode_inter",
            DecodeInter(codec.inter),
            {"m": m, "y": y, "reference": picture},
            (after,),
        ),
    ):
        export_graph(network, inputs, outputs, folder / f"{name}.onnx")
    share_weights(folder)


def _export_integers(codec: DvcCodec, folder: Path) -> None:
    config = codec.config
    meta = {
        "name": config.name,
        "qualities": 1,
        "levels": SCALE_LEVELS,
        "z_limit": SYMBOL_LIMIT,
        "latents": config.latents,
        "hyper": config.residual,
        "motion": config.motion,
    }
    arrays: dict[str, NDArray[np.generic]] = {
        "meta": np.frombuffer(json.dumps(meta).encode(), np.uint8)
    }
    arrays |= packed_tables("y", [laplace_counts(level) for level in range(SCALE_LEVELS)])
    motion = density_counts(codec.inter.motion_density, config.motion, SYMBOL_LIMIT)
    arrays |= packed_tables("m", motion)
    for kind, residual in (("intra", codec.intra), ("inter", codec.inter.residual)):
        tables = density_counts(residual.density, config.residual, SYMBOL_LIMIT)
        arrays |= packed_tables(f"z_{kind}", tables)
        for number, layer in enumerate(residual.h_s.layers):
            weight = layer.weight.detach()
            if isinstance(layer, nn.ConvTranspose2d):  # the same as a correlation on spread samples
                weight = weight.transpose(0, 1).flip(2, 3)
            for name, tensor in (("weight", weight), ("bias", layer.bias.detach())):
                whole = torch.round(tensor * FIXED_POINT).to(torch.int32)
                arrays[f"{kind}/{number}/{name}"] = whole.numpy()
    np.savez_compressed(folder / ENTROPY_FILE, **arrays)  # type: ignore[arg-type]


def main() -> None:
    """Export the averaged weights of a run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="folder of checkpoints")
    parser.add_argument("--width", choices=tuple(CONFIGS), default="narrow")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    codec = DvcCodec(CONFIGS[options.width])
    step = load_average(options.run, codec)
    export_dvc(codec, options.out)
    size = sum(f.stat().st_size for f in options.out.iterdir())
    print(f"{options.out}: step {step}, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
