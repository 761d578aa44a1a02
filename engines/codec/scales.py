"""Turn integers that were already decoded into scale indices, exactly, on any machine; runtime.

The twin of rt.IntegerHyper. Weights and inputs are integers, and every sum stays below 2^24 (the
model file is refused otherwise), so that float32 products, which are the fast ones, have no
rounding in any order of summation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from engines.errors import ModelError

I32 = NDArray[np.int32]
F32 = NDArray[np.float32]

FRACTION_BITS = 6
HIDDEN_LIMIT = 255
MAGNITUDE_LIMIT = 15
NEIGHBOURS = 9
Z_CONTEXTS = 5
"""Tables of a channel of z between frames, by its symbol before: -2 or less to 2 or more."""
EXACT_LIMIT = 1 << 24
SCALE_LOW, SCALE_HIGH, SCALE_LEVELS = 0.04, 64.0, 64
LEVEL_STEP = math.log(SCALE_HIGH / SCALE_LOW) / (SCALE_LEVELS - 1)


def level_of(scale: float) -> int:
    """The scale index whose Laplace distribution is nearest to this mean magnitude."""
    level = round(math.log(max(scale, SCALE_LOW) / SCALE_LOW) / LEVEL_STEP)
    return min(level, SCALE_LEVELS - 1)


@dataclass(frozen=True, slots=True)
class IntegerScales:
    """Weights of one integer hyper path, in units of 1/64."""

    from_z: F32
    """(hidden * 16, hyper)."""
    from_magnitudes: F32 | None
    """(hidden, 2 * latents) for the last symbols and their 3x3 sums; None for intra frames."""
    from_even: F32
    """The same for the even symbols of this frame; looked at for the odd ones."""
    hidden_bias: F32
    """(hidden,)."""
    to_index: F32
    """(latents, hidden)."""
    index_bias: F32
    """(qualities, latents)."""
    odd_bias: F32
    """(latents,) more, for odd symbols."""
    levels: int

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, I32], *, levels: int, z_limit: int, where: str
    ) -> IntegerScales:
        """Check the weights of a model file.

        Raises:
            ModelError: an array is missing, or could sum to more than float32 holds exactly.
        """
        for name in ("from_z", "from_even", "hidden_bias", "to_index", "index_bias", "odd_bias"):
            if name not in arrays:
                raise ModelError(f"{where}: the array {name} is missing; export the model again")
        weights = {name: array.astype(np.float64) for name, array in arrays.items()}
        hidden = np.abs(weights["from_z"]).sum(1).max() * z_limit
        for name in ("from_magnitudes", "from_even"):
            if name in weights:
                own, around = np.split(np.abs(weights[name]), 2, axis=1)
                hidden += ((own + NEIGHBOURS * around) * MAGNITUDE_LIMIT).sum(1).max()
        hidden += np.abs(weights["hidden_bias"]).max() + (1 << FRACTION_BITS)
        index = np.abs(weights["to_index"]).sum(1).max() * HIDDEN_LIMIT
        index += np.abs(weights["index_bias"]).max() + np.abs(weights["odd_bias"]).max()
        index += 1 << FRACTION_BITS
        if max(hidden, index) >= EXACT_LIMIT:
            raise ModelError(
                f"{where}: sums of the integer path reach {max(hidden, index):.0f}, and must stay "
                f"below {EXACT_LIMIT}; train with smaller weights"
            )
        small = {name: array.astype(np.float32) for name, array in weights.items()}
        return cls(
            from_z=small["from_z"],
            from_magnitudes=small.get("from_magnitudes"),
            from_even=small["from_even"],
            hidden_bias=small["hidden_bias"],
            to_index=small["to_index"],
            index_bias=small["index_bias"],
            odd_bias=small["odd_bias"],
            levels=levels,
        )

    def sums(self, z: I32, magnitudes: I32 | None) -> F32:
        """What is known of a frame before its symbols: (hidden, positions) for z (hyper, h, w)."""
        hidden = len(self.hidden_bias)
        _, rows, columns = z.shape
        h = self.from_z @ z.reshape(len(z), -1).astype(np.float32)
        h = h.reshape(hidden, 4, 4, rows, columns).transpose(0, 3, 1, 4, 2)
        h = h.reshape(hidden, 16 * rows * columns) + self.hidden_bias[:, None]
        if self.from_magnitudes is not None and magnitudes is not None:
            h += self.from_magnitudes @ _with_sums(magnitudes)
        return np.asarray(h, np.float32)

    def even(self, sums: F32, quality: I32) -> NDArray[np.uint8]:
        """Scale index of each symbol (latents, 4h, 4w), right for even ones; quality (4h, 4w)."""
        return self._index(np.array(sums), self._bias(quality), quality)

    def odd(self, sums: F32, quality: I32, magnitudes: I32) -> NDArray[np.uint8]:
        """The same, right for odd symbols, by the magnitudes of even ones, zero at the others."""
        h = sums + self.from_even @ _with_sums(magnitudes)
        return self._index(h, self._bias(quality) + self.odd_bias[:, None], quality)

    def _bias(self, quality: I32) -> F32:
        return np.asarray(self.index_bias[quality.reshape(-1)].T, np.float32)

    def _index(self, h: F32, bias: F32, quality: I32) -> NDArray[np.uint8]:
        index = self.to_index @ _shift(h, HIDDEN_LIMIT) + bias
        shape = (len(index), *quality.shape)
        return _shift(index, self.levels - 1).astype(np.uint8).reshape(shape)


@lru_cache(maxsize=8)
def halves(shape: tuple[int, int, int]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Places, in a flat array, of even symbols (channel + row + column), and of odd ones."""
    odd = np.indices(shape).sum(0).reshape(-1) % 2
    return np.flatnonzero(odd == 0), np.flatnonzero(odd)


def _with_sums(magnitudes: I32) -> F32:
    """Magnitudes (latents, rows, columns) and their 3x3 sums: (2 * latents, positions)."""
    own = magnitudes.astype(np.float32)
    return np.concatenate((own, _sum3x3(own))).reshape(2 * len(own), -1)


def _shift(sums: F32, limit: int) -> F32:
    """(sums + 32) >> 6, clamped; float32 does both exactly for whole numbers below 2^24."""
    half = 1 << (FRACTION_BITS - 1)
    sums += half
    sums *= 1 / (1 << FRACTION_BITS)
    np.floor(sums, out=sums)
    sums.clip(0, limit, out=sums)
    return sums


def _sum3x3(x: F32) -> F32:
    """Sum over each 3x3 neighbourhood; outside is zero."""
    rows: F32 = np.array(x)
    rows[:, 1:] += x[:, :-1]
    rows[:, :-1] += x[:, 1:]
    out: F32 = np.array(rows)
    out[:, :, 1:] += rows[:, :, :-1]
    out[:, :, :-1] += rows[:, :, 1:]
    return out
