"""Percentiles from buckets, against the exact ones."""

from __future__ import annotations

import numpy as np
import pytest

from streamer.histogram import Histogram

PERCENTS = (1, 10, 50, 90, 95, 99, 99.9, 100)


def durations_ns(kind: str) -> np.ndarray:
    """Durations as they occur, 10,000 of them."""
    generator = np.random.default_rng(3)
    if kind == "lognormal":
        return (generator.lognormal(np.log(80e6), 0.8, 10_000)).astype(np.int64)
    if kind == "uniform":
        return generator.integers(2_000, 10**9, 10_000)
    if kind == "two peaks":
        return np.concatenate(
            [generator.normal(5e6, 1e5, 5_000), generator.normal(9e8, 1e7, 5_000)]
        )
    return np.full(10_000, 40_000_000)


@pytest.mark.parametrize("kind", ["lognormal", "uniform", "two peaks", "constant"])
def test_percentiles_are_within_two_per_cent(kind: str) -> None:
    times = durations_ns(kind)
    histogram = Histogram()
    for time_ns in times.tolist():
        histogram.add(int(time_ns))
    exact = np.percentile(times, PERCENTS, method="inverted_cdf") / 1e6
    ours = [histogram.percentile_ms(percent) for percent in PERCENTS]
    np.testing.assert_allclose(np.array(ours, float), exact, rtol=0.02)


def test_parts_add_up_to_the_whole() -> None:
    times = durations_ns("lognormal").tolist()
    whole, parts = Histogram(), [Histogram(), Histogram(), Histogram()]
    for number, time_ns in enumerate(times):
        whole.add(time_ns)
        parts[number % 3].add(time_ns)
    merged = Histogram(parts[0].buckets)
    merged.merge(parts[1].buckets)
    merged.merge(dict(parts[2].buckets))
    assert merged.buckets == whole.buckets
    assert parts[0].buckets.total() < whole.buckets.total()  # the parts are not changed


def test_nothing_measured_has_no_percentile() -> None:
    assert Histogram().percentile_ms(50) is None


@pytest.mark.parametrize("duration_ns", [-5, 0, 1, 999, 1000])
def test_what_is_shorter_than_a_microsecond_counts_as_one(duration_ns: int) -> None:
    histogram = Histogram()
    histogram.add(duration_ns)
    assert histogram.percentile_ms(50) == pytest.approx(0.001)


def test_a_day_of_latencies_stays_small() -> None:
    histogram = Histogram()
    for time_ns in np.geomspace(1, 86_400e9, 20_000):
        histogram.add(int(time_ns))
    assert len(histogram.buckets) < 1500
