"""Zones: who is in, since when, and what is remarkable about it; at any frame rate."""

from __future__ import annotations

import math

import numpy as np
import pytest
from watching import NAMES, SIZE, Watch, along, square

from streamer.analytics import Analytics, Totals
from streamer.config import CameraConfig
from streamer.errors import ConfigError
from streamer.ledger import COUNTERS
from streamer.view import CalibrationConfig, ZoneConfig

YARD = square(400, 0, 600, 500)
FPS = [5.0, 12.5, 25.0, 30000 / 1001, 60.0]


def kinds(watch: Watch) -> list[str]:
    return [happening.kind for happening in watch.happenings]


# Visits.


@pytest.mark.parametrize("fps", FPS)
def test_a_visit_is_told_once_and_lasts_from_frame_to_frame(fps: float) -> None:
    watch = Watch({"yard": YARD}, fps=fps)
    watch.play(5, {7: along(200, 100)})  # inside from 2 s to 4 s
    enter, leave = watch.happenings
    assert (enter.kind, leave.kind) == ("zone.enter", "zone.leave")
    assert enter.fields["entered_pts_s"] == pytest.approx(math.ceil(2 * fps) / fps, abs=1e-6)
    assert leave.fields["dwell_s"] == pytest.approx(2, abs=1.001 / fps)
    assert enter.fields["track_id"] == leave.fields["track_id"] == 7
    assert (enter.fields["appeared"], leave.fields["reason"]) == (False, "left")
    assert (enter.fields["occupancy"], leave.fields["occupancy"]) == (1, 0)
    assert (enter.fields["total"], enter.fields["class"]) == (1, "person")
    x1, y1, x2, y2 = enter.fields["box_xyxy_px"]
    assert (x2 - x1, y2 - y1) == (20, 80)
    assert enter.fields["box_xyxy_rel"] == pytest.approx((x1 / 1000, y1 / 500, x2 / 1000, y2 / 500))


def test_a_frame_rate_that_wavers_changes_nothing_but_a_frame() -> None:
    dice = np.random.default_rng(1)
    watch = Watch({"yard": YARD})
    time_s, longest_s = 0.0, 0.0
    while time_s < 5:
        watch.see({1: (200 + 100 * time_s, 250)}, time_s=time_s)
        step_s = float(dice.uniform(0.01, 0.2))
        longest_s, time_s = max(longest_s, step_s), time_s + step_s
    (leave,) = watch.of("zone.leave")
    assert leave.fields["dwell_s"] == pytest.approx(2, abs=longest_s)
    assert leave.fields["entered_pts_s"] == pytest.approx(2, abs=longest_s)


def test_jitter_at_the_border_is_one_visit() -> None:
    """The feet go to and fro over the border by less than the margin, 4 px, for seconds."""
    watch = Watch({"yard": YARD})
    watch.play(3, {1: lambda t: (400 + 3.9 * (-1) ** round(25 * t), 250)})
    assert watch.happenings == []
    watch.play(2, {1: along(404, 30)})
    watch.play(3, {1: lambda t: (600 + 3.9 * (-1) ** round(25 * t), 250)})
    assert kinds(watch) == ["zone.enter"]
    watch.play(1, {1: along(604, 100)})
    assert kinds(watch) == ["zone.enter", "zone.leave"]


def test_who_stays_just_beyond_the_border_is_across_after_a_while() -> None:
    watch = Watch({"yard": square(400, 0, 600, 500, settle_s=0.4)})
    watch.play(1, {1: lambda _: (390, 250)})
    watch.play(1, {1: lambda _: (401, 250)})
    (enter,) = watch.of("zone.enter")
    assert enter.fields["entered_pts_s"] == 1.0
    assert watch.when("zone.enter") == [1.4]


@pytest.mark.parametrize(
    ("anchor", "x", "y"),
    [("bottom", 500, 250), ("center", 500, 210), ("top", 500, 170), ("left", 490, 210),
     ("right", 510, 210)],
)  # fmt: skip
def test_the_anchor_is_the_point_that_counts(anchor: str, x: float, y: float) -> None:
    small = square(x - 5, y - 5, x + 5, y + 5, anchor=anchor)
    watch = Watch({"here": small}, fps=10)
    watch.play(1, {1: lambda _: (500, 250)})
    assert kinds(watch) == ["zone.enter"]


def test_only_confirmed_tracks_count_but_from_their_first_sight() -> None:
    watch = Watch({"yard": YARD})
    for _ in range(25):
        assert watch.see({1: (500, 250)}, tentative=[1]) == []
    (enter,) = watch.see({1: (500, 250)})
    assert (enter.fields["entered_pts_s"], enter.fields["appeared"]) == (0.0, True)
    watch.see({}, ended=[1])
    (leave,) = watch.of("zone.leave")
    assert leave.fields["dwell_s"] == 1.0


def test_a_track_that_never_is_confirmed_leaves_no_trace() -> None:
    watch = Watch({"yard": YARD})
    for _ in range(25):
        watch.see({1: (500, 250)}, tentative=[1])
    watch.see({}, ended=[1])
    assert watch.happenings == []


def test_only_the_classes_of_a_zone_count() -> None:
    zones = {"people": square(400, 0, 600, 500, classes=("person",)), "all": YARD}
    watch = Watch(zones)
    watch.play(1, {1: lambda _: (500, 250), 2: lambda _: (520, 250)}, classes={2: 1})
    entered = [(e.fields["zone"], e.fields["class"]) for e in watch.of("zone.enter")]
    assert sorted(entered) == [("all", "car"), ("all", "person"), ("people", "person")]


def test_a_lost_track_stays_until_it_ends_and_its_visit_ends_with_its_last_sight() -> None:
    watch = Watch({"yard": YARD})
    watch.play(2, {1: lambda _: (500, 250)})
    watch.play(2, {})
    assert kinds(watch) == ["zone.enter"]
    (leave,) = watch.see({}, ended=[1])
    assert (leave.kind, leave.fields["reason"]) == ("zone.leave", "lost")
    assert leave.fields["dwell_s"] == 1.96  # 50 frames at 25 fps: from the first to the last


def test_a_gap_in_the_middle_does_not_part_a_visit() -> None:
    watch = Watch({"yard": YARD})
    watch.play(6, {1: lambda t: (400 + 50 * t, 250) if not 1 < t < 2.5 else None})
    assert kinds(watch) == ["zone.enter", "zone.leave"]
    assert watch.of("zone.leave")[0].fields["dwell_s"] == pytest.approx(4, abs=0.041)


def test_two_visits_are_two_visits() -> None:
    watch = Watch({"yard": YARD})
    watch.play(6, {1: lambda t: (500 + 200 * math.sin(math.pi * t), 250)})
    assert kinds(watch).count("zone.enter") == kinds(watch).count("zone.leave") + 1
    assert [e.fields["total"] for e in watch.of("zone.enter")] == list(range(1, 8))


def test_zones_overlap_and_each_has_its_own_visit() -> None:
    watch = Watch({"left": square(300, 0, 500, 500), "right": square(450, 0, 600, 500)})
    watch.play(5, {1: along(200, 100)})
    told = [(e.kind, e.fields["zone"]) for e in watch.happenings]
    assert told == [("zone.enter", "left"), ("zone.enter", "right"),
                    ("zone.leave", "left"), ("zone.leave", "right")]  # fmt: skip


def test_a_zone_may_have_a_notch() -> None:
    """Inside is what lies between the edges, also of a polygon that is not convex."""
    u = ((0.1, 0.1), (0.9, 0.1), (0.9, 0.9), (0.6, 0.9), (0.6, 0.4), (0.4, 0.4), (0.4, 0.9),
         (0.1, 0.9))  # fmt: skip
    watch = Watch({"u": ZoneConfig(polygon=u)})
    watch.play(8, {1: along(150, 100, 350)})  # 150..400 inside, to 600 in the notch, to 900 inside
    dwells = [e.fields["dwell_s"] for e in watch.of("zone.leave")]
    assert dwells == [pytest.approx(2.5, abs=0.05), pytest.approx(3, abs=0.05)]


def test_the_end_of_the_stream_ends_all_visits() -> None:
    watch = Watch({"yard": YARD})
    watch.play(1, {1: lambda _: (500, 250), 2: lambda _: (510, 250)})
    ends = watch.end()
    assert [(e.kind, e.fields["reason"]) for e in ends] == [("zone.leave", "ended")] * 2
    assert [e.fields["occupancy"] for e in ends] == [1, 0]
    assert watch.end() == []


def test_another_picture_size_ends_all_visits_and_scales_the_zones() -> None:
    watch = Watch({"yard": YARD})
    watch.play(1, {1: lambda _: (500, 250)})
    leave, enter = watch.see({2: (250, 125)}, size=(500, 250), ended=[1])
    assert (leave.kind, leave.fields["track_id"], leave.fields["reason"]) == (
        "zone.leave", 1, "lost",
    )  # fmt: skip
    assert (enter.kind, enter.fields["track_id"]) == ("zone.enter", 2)
    assert enter.fields["box_xyxy_rel"][2:] == (0.52, 0.5)


def test_a_clock_that_goes_back_is_survived() -> None:
    """The tracker ends its tracks then; waiting begins anew."""
    watch = Watch({"yard": square(400, 0, 600, 500, absence_s=2.0, crowding_over=0)}, begin_s=100)
    watch.play(1, {1: lambda _: (500, 250)})
    assert kinds(watch) == ["zone.enter"]
    watch.see({2: (500, 250)}, time_s=3.0, ended=[1])
    (leave,) = watch.of("zone.leave")
    assert leave.fields["dwell_s"] == pytest.approx(0.96)
    watch.play(1, {2: lambda _: (300, 250)})
    assert watch.of("absence") == []
    watch.play(1.5, {2: lambda _: (300, 250)})
    assert len(watch.of("absence", active=True)) == 1


# Limits.


@pytest.mark.parametrize("fps", FPS)
def test_dwell_is_told_once_a_visit_within_a_frame(fps: float) -> None:
    watch = Watch({"yard": square(400, 0, 600, 500, dwell_s=1.5)}, fps=fps)
    watch.play(5, {1: along(300, 100)})
    (dwell,) = watch.of("zone.dwell")
    (enter,) = watch.of("zone.enter")
    due_s = enter.fields["entered_pts_s"] + 1.5
    assert due_s - 1e-5 <= watch.when("zone.dwell")[0] <= due_s + 1 / fps
    assert dwell.fields["dwell_s"] == pytest.approx(1.5, abs=1.01 / fps)


def test_who_is_out_of_sight_does_not_dwell() -> None:
    """But has dwelt when seen again inside."""
    watch = Watch({"yard": square(400, 0, 600, 500, dwell_s=1.5)})
    watch.play(3, {1: lambda t: (500, 250) if t < 1 else None})
    assert watch.of("zone.dwell") == []
    watch.play(0.2, {1: lambda _: (500, 250)})
    assert watch.when("zone.dwell") == [3.0]


def test_loitering_adds_up_visits_and_is_told_once() -> None:
    watch = Watch({"yard": square(400, 0, 600, 500, loitering_s=3.0, dwell_s=2.5)})
    there, away = lambda _: (500.0, 250.0), lambda _: (300.0, 250.0)
    for _ in range(4):
        watch.play(2, {1: there})
        watch.play(1, {1: away})
    assert watch.of("zone.dwell") == []
    (loitering,) = watch.of("loitering")
    assert loitering.fields["total_s"] == pytest.approx(3, abs=0.041)
    assert watch.when("loitering")[0] == pytest.approx(4, abs=0.041)


def test_occupancy_crowding_and_their_ends() -> None:
    limits = {"occupancy_over": 1, "crowding_over": 1, "crowding_s": 2.0}
    watch = Watch({"yard": square(400, 0, 600, 500, **limits)}, fps=10)
    one = {1: lambda _: (500.0, 250.0)}
    two = one | {2: lambda _: (520.0, 250.0)}
    gone = one | {2: lambda _: (300.0, 250.0)}
    watch.play(1, one)
    watch.play(3, two)
    watch.play(1, gone)
    told = [
        (time_s, e.kind, e.fields["active"], e.fields["occupancy"], e.fields["limit"])
        for time_s, e in zip(watch.times, watch.happenings, strict=True)
        if e.kind in ("zone.occupancy", "crowding")
    ]
    assert told == [
        (pytest.approx(1.0), "zone.occupancy", True, 2, 1),
        (pytest.approx(3.0), "crowding", True, 2, 1),
        (pytest.approx(4.0), "zone.occupancy", False, 1, 1),
        (pytest.approx(4.0), "crowding", False, 1, 1),
    ]
    assert watch.of("crowding", active=False)[0].fields["duration_s"] == 3.0


def test_a_crowd_that_parts_in_time_is_none() -> None:
    watch = Watch({"yard": square(400, 0, 600, 500, crowding_over=0, crowding_s=2.0)}, fps=10)
    for _ in range(3):
        watch.play(1.8, {1: lambda _: (500, 250)})
        watch.play(0.2, {1: lambda _: (300, 250)})
    assert watch.of("crowding") == []


def test_absence_begins_when_the_last_one_left() -> None:
    watch = Watch({"yard": square(400, 0, 600, 500, absence_s=3.0)}, fps=10)
    watch.play(4, {})
    assert watch.when("absence") == [3.0]
    watch.play(2, {1: lambda t: (500, 250) if t < 1.95 else None})
    watch.play(1, {})
    watch.see({}, ended=[1])  # 7.0 s; last seen at 5.9 s
    watch.play(3, {})
    told = [(e.fields["active"], e.fields["duration_s"]) for e in watch.of("absence")]
    assert told == [(True, 3.0), (False, 4.0), (True, pytest.approx(3.0, abs=0.11))]
    assert watch.when("absence")[2] == pytest.approx(8.9, abs=0.11)


def test_a_vehicle_that_stands_and_drives_on() -> None:
    watch = Watch({"road": square(100, 0, 900, 500, stopped_s=2.0)}, fps=10)
    watch.play(2, {1: along(200, 100)}, classes={1: 1})
    watch.play(4, {1: lambda _: (400, 250)}, classes={1: 1})
    watch.play(1, {1: along(400, 100)}, classes={1: 1})
    stops = [(e.fields["active"], e.fields["duration_s"]) for e in watch.of("vehicle.stopped")]
    assert stops == [(True, pytest.approx(2, abs=0.15)), (False, pytest.approx(4.1, abs=0.15))]


def test_a_person_may_stand_and_a_vehicle_that_leaves_stands_no_longer() -> None:
    watch = Watch({"road": square(100, 0, 900, 500, stopped_s=1.0)}, fps=10)
    still = lambda _: (400.0, 250.0)  # noqa: E731
    watch.play(3, {1: still, 2: lambda _: (500, 250)}, classes={1: 1})
    watch.see({2: (500, 250)}, ended=[1])
    told = [(e.kind, e.fields["track_id"]) for e in watch.happenings]
    assert [kind for kind, _ in told] == [
        "zone.enter", "zone.enter", "vehicle.stopped", "vehicle.stopped", "zone.leave",
    ]  # fmt: skip
    assert {number for kind, number in told if kind == "vehicle.stopped"} == {1}


def test_the_wrong_way_is_told_once_a_visit_and_jitter_is_no_way() -> None:
    watch = Watch({"lane": square(100, 0, 900, 500, direction=(1, 0))})
    dice = np.random.default_rng(2)
    watch.play(8, {1: lambda t: (200 + 80 * t + dice.normal(0, 2), 250)})
    assert watch.of("direction.wrong") == []
    watch.play(3, {2: along(850, -100)})
    (wrong,) = watch.of("direction.wrong")
    assert (wrong.fields["track_id"], wrong.fields["zone"]) == (2, "lane")
    watch.play(4, {3: lambda t: (300 + 100 * min(t, 4 - t), 250)})  # turns round
    assert [e.fields["track_id"] for e in watch.of("direction.wrong")] == [2, 3]


# Speed.

GROUND = CalibrationConfig(
    picture=((0.1, 0.9), (0.9, 0.9), (0.7, 0.5), (0.3, 0.5)),
    ground_m=((0, 0), (10, 0), (10, 20), (0, 20)),
)


def picture_of(east: float, north: float) -> tuple[float, float]:
    """Where a point of the ground is seen, px; from four points by hand: depth is linear in 1/w."""
    corners = np.array(GROUND.picture) * SIZE
    rows = []
    for (x, y), (a, b) in zip(corners, GROUND.ground_m, strict=True):
        rows += [[a, b, 1, 0, 0, 0, -a * x, -b * x], [0, 0, 0, a, b, 1, -a * y, -b * y]]
    h = np.append(np.linalg.solve(np.array(rows), corners.ravel()), 1).reshape(3, 3)
    x, y, w = h @ (east, north, 1)
    return float(x / w), float(y / w)


@pytest.mark.parametrize("fps", [8.0, 25.0, 60.0])
@pytest.mark.parametrize("speed_m_s", [1.5, 6.0])
def test_a_speed_is_right_wherever_it_is_measured(fps: float, speed_m_s: float) -> None:
    limit = {"speed_over_kmh": 3.6 * speed_m_s * 0.95}
    zone = square(0, 0, 1000, 500, **limit)
    watch = Watch({"all": zone}, calibration=GROUND, fps=fps)
    watch.play(2, {1: lambda t: picture_of(5, 2 + speed_m_s * t)})
    speed = np.frombuffer(watch.analytics.readings(np.array([1, 9])).speeds_kmh, np.float32)
    assert speed[0] == pytest.approx(3.6 * speed_m_s, rel=0.01)
    assert np.isnan(speed[1])
    (over,) = watch.of("speed.over")
    assert over.fields["speed_kmh"] == pytest.approx(3.6 * speed_m_s, rel=0.02)
    assert over.fields["limit_kmh"] == zone.speed_over_kmh


def test_a_speed_below_the_limit_is_no_event_even_with_jitter() -> None:
    zone = square(0, 0, 1000, 500, speed_over_kmh=3.6 * 2 * 1.5)
    watch = Watch({"all": zone}, calibration=GROUND)
    dice = np.random.default_rng(3)
    watch.play(6, {1: lambda t: tuple(dice.normal(picture_of(5, 1 + 2 * t), 1.0))})
    assert watch.of("speed.over") == []


def test_what_the_border_cuts_or_the_horizon_hides_has_no_speed() -> None:
    watch = Watch({"all": square(0, 0, 1000, 500)}, calibration=GROUND)
    watch.play(2, {1: along(3, 1), 2: along(500, 10, 499.5), 3: along(500, 50, 45)})
    speeds = watch.analytics.readings(np.array([1, 2, 3])).speeds_kmh
    assert np.isnan(np.frombuffer(speeds, np.float32)).all()


# Restarts.


def test_a_restart_keeps_totals_and_ends_what_was_open() -> None:
    first = Watch({"yard": YARD, "gate": square(0, 0, 100, 500)})
    first.play(2, {1: lambda _: (500, 250), 2: along(200, 100), 3: lambda _: (50, 250)})
    first.play(1, {1: lambda _: (500, 250), 2: along(400, 10), 3: lambda _: (50, 250)})
    assert [e.fields["total"] for e in first.of("zone.enter", zone="yard")] == [1, 2]
    second = Watch(
        {"yard": YARD, "gate": square(0, 0, 100, 500)},
        counters=first.counters, begin_s=3.2, seq=first.seq,
    )  # fmt: skip
    leaves = second.see({4: (500, 250), 5: (410, 250)}, tentative=[4, 5])
    told = {(e.fields["track_id"], e.fields["zone"]): e.fields for e in leaves}
    assert told.keys() == {(1, "yard"), (2, "yard"), (3, "gate")}
    assert {fields["reason"] for fields in told.values()} == {"restarted"}
    assert [e.fields["occupancy"] for e in leaves if e.fields["zone"] == "yard"] == [1, 0]
    assert told[1, "yard"]["dwell_s"] == pytest.approx(2.96)
    assert told[1, "yard"]["class"] == "person"
    assert told[1, "yard"]["box_xyxy_px"] == pytest.approx((490, 170, 510, 250), abs=0.1)
    second.play(1, {4: lambda _: (500, 250), 5: lambda _: (410, 250), 6: along(300, 200)})
    totals = [e.fields["total"] for e in second.of("zone.enter", zone="yard")]
    assert totals == [2, 2, 3]  # two went on, one is new
    third = Watch({"yard": YARD, "gate": square(0, 0, 100, 500)}, counters=first.counters)
    assert {e.fields["track_id"] for e in third.see({})} == {4, 5, 6}


def test_conditions_outlive_a_restart() -> None:
    zone = {"yard": square(400, 0, 600, 500, occupancy_over=0)}
    first = Watch(zone)
    first.play(1, {1: lambda _: (500, 250)})
    assert [e.fields["active"] for e in first.of("zone.occupancy")] == [True]
    second = Watch(zone, counters=first.counters, begin_s=2.0, seq=first.seq)
    second.play(1, {})
    assert [e.fields["active"] for e in second.of("zone.occupancy")] == [False]


def test_more_visits_than_there_is_room_for_are_counted_all_the_same() -> None:
    watch = Watch({"yard": YARD}, fps=10)
    many = dict.fromkeys(range(1, 1001), (500.0, 250.0))
    for _ in range(5):
        watch.see(many)
    assert watch.of("zone.enter")[-1].fields["total"] == 1000
    watch.see({}, ended=list(many))
    assert watch.of("zone.leave")[-1].fields["occupancy"] == 0
    assert len(Totals(watch.counters).left_over) == 0


# Bad input.


def test_a_class_that_the_detector_lacks_is_refused() -> None:
    for wanted, match in (("dog", "must be classes of the detector, got 'dog'; it knows person"),):
        camera = CameraConfig(source="x", zones={"yard": square(0, 0, 9, 9, classes=(wanted,))})
        with pytest.raises(ConfigError, match=r"cameras\.gate\.zones\.yard\.classes: " + match):
            Analytics("gate", camera, NAMES, Totals([0] * COUNTERS))
