"""A rate that was asked for is met whatever the pictures cost, within every few seconds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from engines.codec.rate import ConstantQuality, TargetRate
from engines.codec.schedule import quality_offset

PERIOD, FPS = 48, 25.0


def bytes_of(position: int, quality: int, scene: float) -> int:
    """A codec whose inter frames cost a quarter, and whose costs grow faster at low qualities."""
    slope = 0.036 * quality + 0.5 * (1 - math.exp(-quality / 12))
    return max(8, round(scene * (1.0 if position == 0 else 0.25) * math.exp(slope)))


def play(
    rate: TargetRate | ConstantQuality, scenes: list[float], *, rests_from: float = math.inf
) -> np.ndarray:
    """Bytes of each frame; one number of `scenes` is how costly a frame's picture is."""
    sizes = []
    for number, scene in enumerate(scenes):
        position = number % PERIOD
        at_rest = number >= rests_from
        offset = quality_offset(position, at_rest=at_rest)
        quality = max(0, min(63, rate.next() + offset))
        size = bytes_of(position, quality, scene)
        rate.spent(position, quality, size, 1 / FPS, at_rest=at_rest)
        sizes.append(size)
    return np.array(sizes)


def rates(sizes: np.ndarray, seconds: float = 5.0) -> np.ndarray:
    """kbit/s of every window of so many seconds, after the first."""
    window = round(seconds * FPS)
    sums = np.convolve(sizes[window:], np.ones(window), "valid")
    return np.asarray(sums * 8 / 1000 / seconds)


@pytest.mark.parametrize("kbps", [120, 400, 900])
@pytest.mark.parametrize("start", [5, 30, 55])
@pytest.mark.parametrize("rests_from", [0, 300, math.inf])
def test_any_five_seconds_have_the_rate(kbps: float, start: int, rests_from: float) -> None:
    rng = np.random.default_rng(1)
    scenes = (1500 * np.exp(rng.normal(0, 0.15, 750))).tolist()
    rate = TargetRate(kbps, period=PERIOD, start=start)
    found = rates(play(rate, scenes, rests_from=rests_from))
    assert found.min() > 0.9 * kbps
    assert found.max() < 1.1 * kbps


def test_a_scene_that_becomes_three_times_as_costly_is_caught() -> None:
    scenes = [1000.0] * 300 + [3000.0] * 600
    sizes = play(TargetRate(400, period=PERIOD, start=20), scenes)
    after = rates(sizes[350:])
    assert after.max() < 440
    assert after.min() > 360


def test_a_cap_spends_less_where_less_is_enough() -> None:
    cheap = play(TargetRate(2000, period=PERIOD, start=20, cap=True), [300.0] * 400)
    plain = play(ConstantQuality(20), [300.0] * 400)
    assert np.array_equal(cheap, plain)
    dear = rates(play(TargetRate(200, period=PERIOD, start=40, cap=True), [2000.0] * 600))
    assert dear.max() < 220


def test_a_rate_must_be_positive() -> None:
    with pytest.raises(ValueError, match="kbps must be above 0, got 0"):
        TargetRate(0, period=PERIOD, start=20)
