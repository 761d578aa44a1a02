"""The batching benchmark reads what arrives as it should: spans, ages and what they are beside."""

from __future__ import annotations

import itertools

import pytest

from benchmarks.bench_batching import FPS, SPAN_S, Seen, beside_a_slow_one, now_and_then


def arrivals(spans: int, *, slow_ms: float, trend_ms: float = 0.0) -> Seen:
    """Two cameras beside c7; all ages rise by trend_ms a span, as on a machine that gets busier."""
    seen = Seen(began_s={"c7": 100.0})
    for number in range(spans * SPAN_S * FPS):
        span = number // (SPAN_S * FPS)
        age_ms = 20.0 + trend_ms * span + (slow_ms if span % 2 else 0.0)
        for camera in ("c0", "c1"):
            seen.ages_ms[camera].append((100.0 + number / FPS, age_ms))
        seen.ages_ms["c7"].append((100.0 + number / FPS, 500.0))
    return seen


def test_the_slow_camera_is_compared_with_the_spans_beside_it() -> None:
    assert beside_a_slow_one(arrivals(9, slow_ms=0), "c7")["ratio"] == 1
    assert beside_a_slow_one(arrivals(9, slow_ms=0, trend_ms=50), "c7")["ratio"] == 1
    held_up = beside_a_slow_one(arrivals(9, slow_ms=20), "c7")
    assert held_up == {"fast_ms": 20, "slow_ms": 40, "ratio": 2, "ratios": [2, 2, 2, 2]}
    alone = beside_a_slow_one(arrivals(2, slow_ms=20), "c7")
    assert alone["ratio"] is None  # there is nothing behind the slow span


def test_the_slow_camera_sends_a_frame_a_second_in_every_other_span() -> None:
    numbers = list(itertools.takewhile(lambda number: number < 4 * SPAN_S * FPS, now_and_then()))
    spans = [0, 0, 0, 0]
    for number in numbers:
        spans[number // (SPAN_S * FPS)] += 1
    assert spans == [SPAN_S * FPS, SPAN_S, SPAN_S * FPS, SPAN_S]
    assert numbers == sorted(set(numbers))
    assert max(b - a for a, b in itertools.pairwise(numbers)) == FPS


def test_ages_of_all_cameras_count() -> None:
    assert len(arrivals(1, slow_ms=0).all_ages_ms()) == 3 * SPAN_S * FPS
    assert arrivals(1, slow_ms=0).all_ages_ms()[0] == pytest.approx(20)
