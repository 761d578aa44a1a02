"""Begin a training of `rt` at the weights of an exported model; offline.

    python -m engines.codec.restore --model engines/zoo/codec/rt-nano --out RUN [--size small]

Writes the first checkpoint of RUN, which engines.codec.train goes on from. A larger size begins as
the same function: its new channels are zero, and its new blocks change nothing.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from engines.codec.checkpoint import Ema, save_checkpoint
from engines.codec.layers import FactorizedDensity
from engines.codec.model import ENTROPY_FILE
from engines.codec.rt import CONFIGS, FIXED_POINT, QUALITIES, Z_LIMIT, RtCodec

FIT_STEPS = 600
FIT_RATE = 0.03
"""Of the densities of z, of which a model holds tables alone."""


def restore(codec: RtCodec, folder: Path, *, densities: bool = True) -> None:
    """Give a codec of the same size the weights of a model folder.

    Args:
        codec: as it was made.
        folder: of the model.
        densities: of z too, which only training needs, and which takes seconds.

    Raises:
        SystemExit: the folder holds another size.
    """
    with np.load(folder / ENTROPY_FILE, allow_pickle=False) as stored:
        integers = {key: stored[key] for key in stored.files}
    weights = _weights(folder) | _scales(codec, integers)
    for name, parameter in codec.named_parameters():
        if name.startswith("frame.density."):
            continue
        found = weights.get(name)
        if found is None or found.shape != parameter.shape:
            shape = None if found is None else found.shape
            raise SystemExit(
                f"{folder}: {name} must be {tuple(parameter.shape)}, got {shape}; it is a model of "
                "another size or version"
            )
        parameter.data.copy_(torch.from_numpy(found))
    if not densities:
        return
    for kind, density in zip(("intra", "inter"), codec.frame.density, strict=True):
        counts = integers[f"z_{kind}/counts"].reshape(codec.config.hyper, -1, 2 * Z_LIMIT + 2)
        fit(density, counts[:, counts.shape[1] // 2, :-1])  # after a zero, or after anything


def _weights(folder: Path) -> dict[str, NDArray[np.float32]]:
    """By the names of the codec's parameters, from all graphs."""
    weights = {}
    for path in folder.glob("*.onnx"):
        for tensor in onnx.load(str(path), load_external_data=False).graph.initializer:
            name = tensor.name.removeprefix("codec.").removesuffix("_f16")
            values = numpy_helper.to_array(tensor, str(folder))
            weights[name] = np.array(values, np.float32)
    return weights


def _scales(
    codec: RtCodec, integers: dict[str, NDArray[np.int32]]
) -> dict[str, NDArray[np.float32]]:
    """Parameters of the integer path, which a model holds in whole units."""
    knots = np.linspace(0, QUALITIES - 1, codec.config.knots).round().astype(int)
    found = {
        name: integers[f"scales/{name}"]
        for name in ("from_z", "from_magnitudes", "from_even", "hidden_bias", "to_index")
    }
    kinds = ("intra", "inter")
    for kind, name in enumerate(kinds):
        found[f"index_bias.{kind}.log_gains"] = integers[f"{name}/index_bias"][knots]
    found["odd_bias"] = np.stack([integers[f"{name}/odd_bias"] for name in kinds])
    return {
        f"frame.h_s_scales.{name}": np.asarray(values / FIXED_POINT, np.float32)
        for name, values in found.items()
    }


def fit(density: FactorizedDensity, counts: NDArray[np.int32]) -> None:
    """Let a density give each channel the probabilities of its counts (channels, 2 limit + 1)."""
    shares = torch.from_numpy(counts / counts.sum(1, keepdims=True)).float()
    values = torch.arange(-Z_LIMIT, Z_LIMIT + 1).float().expand(1, len(shares), 1, -1)
    optimiser = torch.optim.Adam(density.parameters(), lr=FIT_RATE)
    for step in range(FIT_STEPS):
        for group in optimiser.param_groups:
            group["lr"] = FIT_RATE * (1 - step / FIT_STEPS)
        bits = (shares * density.bits(values)[0, :, 0]).sum(1).mean()
        optimiser.zero_grad()
        bits.backward()
        optimiser.step()


def grow(small: RtCodec, large: RtCodec) -> None:
    """Let a codec with more channels and blocks, as it was made, compute what a smaller one does.

    What is new reads what was there, and nothing that was there reads what is new. The two may
    differ in channels and numbers of blocks alone.
    """
    source = dict(small.named_parameters())
    step = large.config.channels - small.config.channels
    for name, parameter in large.named_parameters():
        target = parameter.data
        if name not in source:
            if name.rsplit(".", 2)[1] in ("leave", "narrow"):  # the ends of a block
                target.zero_()
            continue
        weight = source[name].data
        rows, columns = (torch.arange(size) for size in (*weight.shape, 1)[:2])
        if name == "frame.merge.weight":  # it reads features, then the context
            columns[small.config.channels :] += step
        if weight.dim() == 1:
            target[rows] = weight
            continue
        if weight.dim() == 4:
            unread = torch.ones(target.shape[1], dtype=torch.bool)
            unread[columns] = False
            target[:, unread] = 0
        target[rows[:, None], columns] = weight


@dataclass
class Start:
    """A training that has not begun."""

    codec: RtCodec
    step: int = 0
    trained_s: float = 0.0

    def __post_init__(self) -> None:
        self.ema = Ema(self.codec)
        self.optimiser: torch.optim.Optimizer = torch.optim.AdamW(self.codec.parameters())


def main() -> None:
    """Write the first checkpoint of a run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of an exported model")
    parser.add_argument("--size", choices=("nano", "small"), default="nano")
    parser.add_argument("--out", type=Path, required=True, help="of the run; must be empty")
    options = parser.parse_args()
    codec = RtCodec(CONFIGS["rt-nano"])
    restore(codec, options.model)
    if options.size == "small":
        codec, nano = RtCodec(CONFIGS["rt-small"]), codec
        grow(nano, codec)
    options.out.mkdir(parents=True)
    save_checkpoint(options.out, Start(codec))


if __name__ == "__main__":
    main()
