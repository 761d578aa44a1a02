"""Lines: each crossing is counted once, in its direction, where and when it was."""

from __future__ import annotations

import math

import numpy as np
import pytest
from watching import Watch, along, line, square

NOBODY = np.empty(0, np.int64)
UPRIGHT = line(500, 400, 500, 100)
"""Walked upwards: in is to the right of the picture."""


def told(watch: Watch) -> list[tuple[int, str]]:
    return [(e.fields["track_id"], str(e.fields["direction"])) for e in watch.of("line.crossed")]


@pytest.mark.parametrize("fps", [5.0, 12.5, 25.0, 60.0])
def test_a_crossing_is_counted_once_and_timed_between_frames(fps: float) -> None:
    watch = Watch(lines={"kerb": UPRIGHT}, fps=fps)
    watch.play(4, {1: along(301, 100), 2: along(800, -100)})
    assert sorted(told(watch)) == [(1, "in"), (2, "out")]
    by_track = {e.fields["track_id"]: e.fields for e in watch.of("line.crossed")}
    assert by_track[1]["crossed_pts_s"] == pytest.approx(1.99)
    assert by_track[2]["crossed_pts_s"] == pytest.approx(3.0)
    assert (by_track[1]["count_in"], by_track[1]["count_out"]) == (1, 0)
    assert (by_track[2]["count_in"], by_track[2]["count_out"]) == (1, 1)
    assert by_track[1]["speed_kmh"] is None
    readings = watch.analytics.readings(NOBODY)
    assert readings.counts == ((1, 1),)


@pytest.mark.parametrize(
    ("ends", "direction"),
    [((500, 400, 500, 100), "in"), ((500, 100, 500, 400), "out"),
     ((480, 400, 520, 100), "in"), ((520, 100, 480, 400), "out")],
)  # fmt: skip
def test_in_is_from_the_left_of_one_who_walks_along_it(
    ends: tuple[float, float, float, float], direction: str
) -> None:
    watch = Watch(lines={"kerb": line(*ends)})
    watch.play(4, {1: along(300, 100)})
    assert told(watch) == [(1, direction)]


def test_a_level_line_is_crossed_from_above() -> None:
    """Walked to the left, it has the picture's upper part on its right."""
    watch = Watch(lines={"door": line(700, 250, 300, 250)})
    watch.play(3, {1: lambda t: (500, 350 - 80 * t)})
    assert told(watch) == [(1, "in")]


def test_who_walks_around_its_end_does_not_cross() -> None:
    watch = Watch(lines={"kerb": UPRIGHT})
    # Past the lower end of the line, then up on the other side.
    watch.play(6, {1: lambda t: (400 + 50 * t, 450) if t < 4 else (600, 450 - 100 * (t - 4))})
    assert told(watch) == []
    watch.play(4, {1: along(600, -50)})
    assert told(watch) == [(1, "out")]


def test_jitter_on_the_line_counts_nothing_or_once() -> None:
    watch = Watch(lines={"kerb": UPRIGHT})
    watch.play(4, {1: lambda t: (500 + 3.9 * (-1) ** round(25 * t), 250)})
    assert told(watch) == []
    watch.play(2, {1: along(500, 40)})
    assert len(told(watch)) <= 1
    watch = Watch(lines={"kerb": UPRIGHT})
    watch.play(6, {1: lambda t: (440 + 20 * t + 3 * math.sin(40 * t), 250)})
    assert told(watch) == [(1, "in")]


def test_whoever_goes_to_and_fro_is_counted_each_time_unless_once_is_set() -> None:
    to_and_fro = {1: lambda t: (500 - 100 * math.cos(math.pi * t), 250.0)}
    watch = Watch(lines={"each": UPRIGHT, "once": line(500, 400, 500, 100, once=True)})
    watch.play(6, to_and_fro)
    counts = watch.analytics.readings(NOBODY).counts
    assert counts == ((3, 3), (1, 1))


def test_who_turns_up_on_the_line_has_not_crossed_it() -> None:
    watch = Watch(lines={"kerb": UPRIGHT})
    watch.play(2, {1: along(501, -100)})  # first seen within the margin
    assert told(watch) == []
    watch.play(3, {1: along(301, 100)})
    assert told(watch) == [(1, "in")]


def test_a_gap_while_crossing_is_bridged_by_a_straight_line() -> None:
    watch = Watch(lines={"kerb": UPRIGHT})
    watch.play(4, {1: lambda t: (300 + 100 * t, 250) if not 1.5 < t < 2.5 else None})
    (crossed,) = watch.of("line.crossed")
    assert crossed.fields["crossed_pts_s"] == pytest.approx(2.0, abs=1e-6)


def test_only_confirmed_tracks_of_its_classes_count() -> None:
    watch = Watch(lines={"kerb": line(500, 400, 500, 100, classes=("car",))})
    watch.play(4, {1: along(300, 100), 2: along(310, 100)}, classes={2: 1})
    assert told(watch) == [(2, "in")]
    for step in range(100):
        watch.see({3: (300 + 4.0 * step, 250)}, tentative=[3], classes={3: 1})
    assert told(watch) == [(2, "in")]
    # Confirmed only now, on the other side: it has crossed, and that is told now.
    watch.see({3: (700, 250)}, classes={3: 1})
    assert told(watch) == [(2, "in"), (3, "in")]


def test_the_wrong_direction_over_a_line_is_told() -> None:
    watch = Watch(lines={"gate": line(500, 400, 500, 100, allowed="in")})
    watch.play(4, {1: along(300, 100), 2: along(700, -100)})
    (wrong,) = watch.of("direction.wrong")
    assert (wrong.fields["track_id"], wrong.fields["line"]) == (2, "gate")
    assert len(told(watch)) == 2


def test_counts_go_on_after_a_restart_and_frames_handed_out_again_count_once() -> None:
    first = Watch(lines={"kerb": UPRIGHT})
    first.play(4, {1: along(300, 100)})
    crossed_at = round(first.when("line.crossed")[0] * 25)
    # The process died after it had counted; the last seconds are handed out again.
    second = Watch(
        lines={"kerb": UPRIGHT}, counters=first.counters, seq=crossed_at - 40,
        begin_s=(crossed_at - 40) / 25,
    )  # fmt: skip
    begin_px = 300 + 100 * second.time_s
    second.play(3, {2: along(begin_px, 100)})
    (again,) = second.of("line.crossed")
    assert (again.fields["count_in"], again.fields["count_out"]) == (1, 0)
    second.play(4, {3: along(300, 100)})
    assert [e.fields["count_in"] for e in second.of("line.crossed")] == [1, 2]


def test_a_line_and_a_zone_see_the_same_frame() -> None:
    watch = Watch({"yard": square(500, 0, 900, 500)}, {"kerb": UPRIGHT})
    watch.play(4, {1: along(300, 100)})
    assert [e.kind for e in watch.happenings] == ["zone.enter", "line.crossed"]
    assert len(set(watch.times)) == 1
