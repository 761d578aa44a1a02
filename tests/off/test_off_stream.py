"""When frames are samples, when scores are actions, and whose turn it is: nothing of a network."""

from __future__ import annotations

import pytest

from engines.off.hysteresis import Hysteresis, Thresholds
from engines.off.sampler import Sampler
from engines.off.scheduler import FairTurns

SECOND_NS = 1_000_000_000


def taken(fps: float, seconds: float = 4.0, rate: float = 8.0) -> list[float]:
    sampler = Sampler(rate)
    times = [k / fps for k in range(int(fps * seconds))]
    return [t for t in times if sampler.take(round(t * SECOND_NS)) != "skip"]


@pytest.mark.parametrize("fps", [10, 12.5, 14.985, 25, 29.97, 50])
def test_every_camera_is_sampled_at_the_same_rate(fps: float) -> None:
    times = taken(fps)
    assert len(times) == pytest.approx(4 * 8, abs=1)
    for number, time_s in enumerate(times):
        assert abs(time_s - number / 8) <= 0.5 / fps + 1e-6  # the nearest frame there is


def test_a_camera_slower_than_the_rate_gives_every_frame() -> None:
    assert len(taken(5)) == 20


@pytest.mark.parametrize("jump_s", [0.6, 100.0, -1.0, 0.0])
def test_a_gap_or_a_jump_begins_anew(jump_s: float) -> None:
    sampler = Sampler(8.0)
    said = [sampler.take(k * SECOND_NS // 25) for k in range(50)]
    assert said.count("restart") == 1
    last_ns = 49 * SECOND_NS // 25
    assert sampler.take(last_ns + round(jump_s * SECOND_NS)) == "restart"


def test_a_jump_that_the_clock_tells_of_begins_anew() -> None:
    sampler = Sampler(8.0)
    assert sampler.take(0) == "restart"
    assert sampler.take(40_000_000) == "skip"
    assert sampler.take(80_000_000, discontinuity=True) == "restart"
    sampler.restart()
    assert sampler.take(120_000_000) == "restart"


def test_a_sampler_refuses_what_would_never_give_a_window() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        Sampler(8.0, gap_s=0.05)


def followed(scores: list[float], **limits: float) -> list[tuple[str, int, int | None]]:
    hysteresis = Hysteresis({"fight": Thresholds(**limits)})
    changes = []
    for number, score in enumerate(scores):
        changes += hysteresis.update(number * 125_000_000, {"fight": score, "normal": 1 - score})
    changes += hysteresis.finish(len(scores) * 125_000_000)
    to_step = 125_000_000
    return [
        (c.kind, c.begin_ns // to_step, None if c.end_ns is None else c.end_ns // to_step)
        for c in changes
    ]


def test_one_action_is_one_event_though_its_score_wavers() -> None:
    scores = [0.1] * 4 + [0.7, 0.8, 0.9, 0.3, 0.9, 0.5, 0.45, 0.8] + [0.1] * 6
    assert followed(scores) == [("started", 4, None), ("ended", 4, 12)]


def test_what_is_short_is_no_action() -> None:
    assert followed([0.1, 0.9, 0.9, 0.1, 0.1], least_s=0.5) == []
    assert followed([0.5] * 20) == []


def test_an_action_ends_with_its_stream() -> None:
    assert followed([0.9] * 5) == [("started", 0, None), ("ended", 0, 5)]
    assert followed([0.1] * 5) == []


def test_the_peak_is_of_this_action() -> None:
    hysteresis = Hysteresis({"run": Thresholds(least_s=0)})
    changes = []
    for number, score in enumerate([0.95, 0.1, 0.7, 0.8, 0.1]):
        changes += hysteresis.update(number, {"run": score})
    assert [(c.kind, c.score) for c in changes] == [
        ("started", 0.95), ("ended", 0.95), ("started", 0.7), ("ended", 0.8),
    ]  # fmt: skip


def test_one_action_ends_before_the_next_starts() -> None:
    both = {"walk": Thresholds(least_s=0), "run": Thresholds(least_s=0)}
    hysteresis = Hysteresis(both)
    hysteresis.update(0, {"walk": 0.9, "run": 0.1})
    assert hysteresis.active == ("walk",)
    changes = hysteresis.update(1, {"walk": 0.1, "run": 0.9})
    assert [(c.kind, c.action) for c in changes] == [("ended", "walk"), ("started", "run")]


@pytest.mark.parametrize("limits", [{"on": 0.3, "off": 0.5}, {"on": 1.0}, {"least_s": -1.0}])
def test_thresholds_must_make_sense(limits: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="0 < off <= on < 1"):
        Thresholds(**limits)


def turns(**options: float) -> FairTurns:
    return FairTurns(24.0, 8.0, turn_s=2.0, silence_s=1.0, **options)


def test_all_are_watched_while_the_budget_lasts() -> None:
    fair = turns()
    assert fair.places == 3
    for step in range(100):
        assert fair.grant("a", [1, 2, 3], step * 125_000_000) == {1, 2, 3}


def test_over_budget_everybody_gets_unbroken_turns_and_equally_many() -> None:
    fair, count, runs = turns(), dict.fromkeys(range(7), 0), []
    before: set[int] = set()
    since = dict.fromkeys(range(7), 0)
    for step in range(8 * 60):
        granted = fair.grant("a", range(7), step * 125_000_000)
        assert len(granted) == 3  # the budget is kept, and used
        for who in granted:
            count[who] += 1
        for who in before - granted:
            runs.append(step - since[who])
        since.update(dict.fromkeys(granted - before, step))
        before = granted
    assert min(runs) >= 16  # two seconds without a hole
    assert max(count.values()) - min(count.values()) <= 2 * 16


def test_cameras_share_the_budget() -> None:
    fair = turns()
    served = {"a": 0, "b": 0}
    for step in range(8 * 40):
        for camera, people in (("a", range(5)), ("b", range(5))):
            served[camera] += len(fair.grant(camera, people, step * 125_000_000))
    assert served["a"] + served["b"] <= 3 * 8 * 40
    assert served["a"] == pytest.approx(served["b"], rel=0.2)


def test_a_place_of_who_has_gone_is_given_on_at_once() -> None:
    fair = turns()
    assert fair.grant("a", [1, 2, 3, 4], 0) == {1, 2, 3}
    assert fair.grant("a", [2, 3, 4], 1) == {2, 3, 4}


def test_a_camera_that_stands_still_or_is_dropped_holds_no_place() -> None:
    fair = turns()
    fair.grant("a", [1, 2, 3], 0)
    assert fair.grant("b", [9], SECOND_NS // 2) == set()
    assert fair.grant("b", [9], 2 * SECOND_NS) == {9}
    fair.grant("c", [1, 2], 2 * SECOND_NS)
    fair.drop("c")
    assert fair.grant("b", [7, 8, 9], 2 * SECOND_NS + 1) == {7, 8, 9}


def test_a_budget_below_one_person_is_refused() -> None:
    with pytest.raises(ValueError, match="crops_per_s must be at least 8"):
        FairTurns(7.0, 8.0)
