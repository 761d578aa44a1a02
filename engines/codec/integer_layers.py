"""Run a small convolutional network in whole numbers, exactly, on any machine; runtime, numpy.

The twin of dvc.IntegerHyperDecoder. As in scales.py every sum stays below 2^24, so that float32
products have no rounding in any order of summation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engines.codec.scales import EXACT_LIMIT, F32, FRACTION_BITS, HIDDEN_LIMIT, I32
from engines.errors import ModelError

UNIT = 1 << FRACTION_BITS


@dataclass(frozen=True, slots=True)
class IntegerLayer:
    """One correlation in units of 1/64, on its input or on that with zeros between its samples."""

    weight: F32
    """(out, in, k, k)."""
    bias: F32
    doubles: bool
    """True if the input is spread to twice its size first."""
    limit: int
    """Outputs are 0..limit."""

    def run(self, x: F32) -> F32:
        """Map (in, h, w) to (out, h, w) or (out, 2h, 2w)."""
        if self.doubles:
            spread = np.zeros((len(x), 2 * x.shape[1], 2 * x.shape[2]), np.float32)
            spread[:, ::2, ::2] = x
            x = spread
        size = self.weight.shape[-1]
        edge = size // 2
        padded = np.pad(x, ((0, 0), (edge, edge), (edge, edge)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (1, 2))
        columns = windows.transpose(0, 3, 4, 1, 2).reshape(-1, x.shape[1] * x.shape[2])
        sums = self.weight.reshape(len(self.weight), -1) @ columns + self.bias[:, None]
        out: F32 = np.clip(np.floor((sums + UNIT / 2) / UNIT), 0, self.limit, dtype=np.float32)
        return out.reshape(-1, *x.shape[1:])


def read_layers(
    arrays: Mapping[str, I32], *, doubles: tuple[bool, ...], levels: int, z_limit: int, where: str
) -> list[IntegerLayer]:
    """Check the layers <i>/weight and <i>/bias of a model file.

    Raises:
        ModelError: an array is missing, or could sum to more than float32 holds exactly.
    """
    layers = []
    reach = z_limit
    for number, double in enumerate(doubles):
        try:
            weight, bias = arrays[f"{number}/weight"], arrays[f"{number}/bias"]
        except KeyError as error:
            raise ModelError(f"{where}: the array {error} is missing; export it again") from error
        most = np.abs(weight.astype(np.int64)).sum((1, 2, 3)) * reach + np.abs(bias) + UNIT
        if most.max() >= EXACT_LIMIT:
            raise ModelError(
                f"{where}: sums of layer {number} reach {most.max()}, and must stay below "
                f"{EXACT_LIMIT}; train with smaller weights"
            )
        reach = HIDDEN_LIMIT if number < len(doubles) - 1 else levels - 1
        layer = IntegerLayer(weight.astype(np.float32), bias.astype(np.float32), double, reach)
        layers.append(layer)
    return layers


def run_layers(layers: list[IntegerLayer], z: I32) -> NDArray[np.uint8]:
    """Scale indices of z (channels, h, w)."""
    x = z.astype(np.float32)
    for layer in layers:
        x = layer.run(x)
    return x.astype(np.uint8)
