"""The integer path gives the same scale indices in numpy as in torch, exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from codec_tiny import TINY

from engines.codec.rt import INTER, INTRA, QUALITIES, Z_LIMIT, IntegerHyper
from engines.codec.scales import SCALE_LEVELS, IntegerScales, halves
from engines.errors import ModelError


def arrays_of(path: IntegerHyper, kind: int = INTER) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in path.integers(kind).items()}


@pytest.mark.parametrize("temporal", [False, True])
def test_numpy_equals_torch_at_every_quality(temporal):
    torch.manual_seed(1)
    path = IntegerHyper(TINY)
    for parameter in (path.from_even, path.odd_bias):  # zero before training
        torch.nn.init.normal_(parameter, std=0.5)
    scales = IntegerScales.from_arrays(
        arrays_of(path, INTER if temporal else INTRA),
        levels=SCALE_LEVELS,
        z_limit=Z_LIMIT,
        where="test",
    )
    rng = np.random.default_rng(2)
    seen = set()
    for quality in range(0, QUALITIES, 7):
        z = rng.integers(-Z_LIMIT, Z_LIMIT + 1, (TINY.hyper, 2, 3)).astype(np.int32)
        magnitudes = rng.integers(0, 16, (TINY.latents, 8, 12)).astype(np.int32)
        qualities = np.clip(quality + rng.integers(-9, 10, (8, 12)), 0, QUALITIES - 1)
        q = rng.integers(-20, 21, magnitudes.shape).astype(np.int32)
        _, odd = halves(q.shape)
        sums = scales.sums(z, magnitudes if temporal else None)
        before = np.minimum(np.abs(q), 15)
        before.put(odd, 0)
        ours = scales.even(sums, qualities)
        ours.put(odd, scales.odd(sums, qualities, before).take(odd))
        with torch.no_grad():
            theirs = path(
                torch.from_numpy(z)[None].float(),
                torch.from_numpy(magnitudes)[None].float() if temporal else None,
                torch.from_numpy(qualities)[None],
                torch.from_numpy(q)[None].float(),
            )
        np.testing.assert_array_equal(ours, theirs[0].numpy())
        seen |= set(ours.ravel().tolist())
    assert len(seen) > 20


def test_missing_magnitudes_are_zeros():
    path = IntegerHyper(TINY)
    scales = IntegerScales.from_arrays(
        arrays_of(path), levels=SCALE_LEVELS, z_limit=Z_LIMIT, where="test"
    )
    z = np.full((TINY.hyper, 1, 1), 2, np.int32)
    zeros = np.zeros((TINY.latents, 4, 4), np.int32)
    np.testing.assert_array_equal(scales.sums(z, None), scales.sums(z, zeros))


def test_odd_symbols_have_even_ones_beside_them():
    even = np.zeros((3, 4, 5), bool)
    places, others = halves(even.shape)
    even.put(places, True)
    assert even[0, 0, 0]
    assert sorted([*places, *others]) == list(range(60))
    for axis in range(3):
        one, next_ = np.moveaxis(even, axis, 0)[:-1], np.moveaxis(even, axis, 0)[1:]
        assert (one != next_).all()


def test_sums_that_float32_would_round_are_refused():
    arrays = arrays_of(IntegerHyper(TINY))
    arrays["to_index"] = arrays["to_index"] + 20_000
    with pytest.raises(ModelError, match=r"m: sums of the integer path reach \d+, and must stay"):
        IntegerScales.from_arrays(arrays, levels=SCALE_LEVELS, z_limit=Z_LIMIT, where="m")


def test_a_missing_array_is_named():
    arrays = arrays_of(IntegerHyper(TINY))
    del arrays["to_index"]
    with pytest.raises(ModelError, match="m: the array to_index is missing"):
        IntegerScales.from_arrays(arrays, levels=SCALE_LEVELS, z_limit=Z_LIMIT, where="m")
