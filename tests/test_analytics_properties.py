"""What holds wherever anybody walks: geometry as OpenCV has it, and books that balance."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from watching import SIZE, Watch, line, square

from streamer.analytics.geometry import Anchors, Ground, Lines, Polygons
from streamer.analytics.totals import MOST_VISITS, Totals
from streamer.errors import ConfigError
from streamer.ledger import COUNTERS
from streamer.view import CalibrationConfig, LineConfig, ZoneConfig, check_view

PART = st.floats(0, 1).map(lambda part: round(part, 3))
POINT = st.tuples(PART, PART)
SLOW = settings(max_examples=60, deadline=None, derandomize=True)


@st.composite
def simple_polygons(draw: st.DrawFn) -> tuple[tuple[float, float], ...]:
    """Corners around a middle, in order: star-shaped, so its edges never cross."""
    count = draw(st.integers(3, 9))
    radii = draw(st.lists(st.floats(0.05, 0.4), min_size=count, max_size=count))
    turn = math.tau / count
    return tuple(
        (0.5 + radius * math.cos(turn * k), 0.5 + radius * math.sin(turn * k))
        for k, radius in enumerate(radii)
    )


@SLOW
@given(polygons=st.lists(simple_polygons(), min_size=1, max_size=4),
       points=st.lists(POINT, min_size=1, max_size=12))  # fmt: skip
def test_inside_and_distance_are_those_of_opencv(polygons, points) -> None:
    shapes = Polygons(polygons, *SIZE)
    px = np.array(points) * SIZE
    stacked = np.broadcast_to(px[:, None], (len(px), len(polygons), 2))
    inside = shapes.inside(stacked)
    for k, polygon in enumerate(polygons):
        outline = (np.array(polygon) * SIZE).astype(np.float32)
        signed = [cv2.pointPolygonTest(outline, (float(x), float(y)), True) for x, y in px]
        distance = shapes.distance(px, np.full(len(px), k))
        np.testing.assert_allclose(distance, np.abs(signed), atol=1e-2)
        for is_inside, depth in zip(inside[:, k], signed, strict=True):
            assert is_inside == (depth > 0) or abs(depth) < 1e-2


@SLOW
@given(ends=st.tuples(POINT, POINT), point=POINT)
def test_beside_a_line_is_the_distance_and_the_way_along(ends, point) -> None:
    (ax, ay), (bx, by) = (np.array(end) * SIZE for end in ends)
    assume(math.hypot(bx - ax, by - ay) > 1)
    x, y = np.array(point) * SIZE
    beside, along = Lines([ends], *SIZE).beside(np.array([[[x, y]]]))
    foot = np.array([ax, ay]) + along[0, 0] * np.array([bx - ax, by - ay])
    assert math.hypot(*(foot - (x, y))) == pytest.approx(abs(beside[0, 0]), abs=1e-6)


def test_anchors_of_a_box() -> None:
    box = np.array([[10.0, 20.0, 30.0, 60.0]])
    points = Anchors(["bottom", "center", "top", "left", "right"]).points(box)[0]
    np.testing.assert_array_equal(points, [[20, 60], [20, 40], [20, 20], [10, 40], [30, 40]])
    np.testing.assert_array_equal(Anchors(["top"] * 3).points(box)[0], [[20, 20]] * 3)


@st.composite
def calibrations(draw: st.DrawFn) -> CalibrationConfig:
    """A quadrilateral in the picture and one on the ground, each with its corners moved a bit."""
    nudge = st.floats(-0.2, 0.2)
    square_ = [(0.3, 0.3), (0.7, 0.3), (0.7, 0.7), (0.3, 0.7)]
    nudged = [[(x + draw(nudge), y + draw(nudge)) for x, y in square_] for _ in range(2)]
    metres = draw(st.floats(1, 100))
    picture, ground = nudged[0], [(x * metres, y * metres) for x, y in nudged[1]]
    return CalibrationConfig(picture=tuple(picture), ground_m=tuple(ground))


@SLOW
@given(calibration=calibrations(), part=PART)
def test_a_calibration_that_is_taken_gives_its_points_and_lines_back(calibration, part) -> None:
    picture, ground = calibration.picture, calibration.ground_m
    try:
        check_view("cameras.gate", {}, {}, calibration, found=())
    except ConfigError:
        assume(False)
    to_ground = Ground(calibration, *SIZE)
    px = np.array(picture) * SIZE
    np.testing.assert_allclose(to_ground.metres(px), ground, atol=1e-3)
    # Straight lines stay straight: between two corners lies what is on the way between them.
    middle = px[:1] + part * (px[1:2] - px[:1])
    (at,) = to_ground.metres(middle)
    (ax, ay), (bx, by) = ground[0], ground[1]
    across = (bx - ax) * (at[1] - ay) - (by - ay) * (at[0] - ax)
    assert abs(across) <= 1e-3 * max(1.0, math.hypot(bx - ax, by - ay))


STEP = st.tuples(
    st.floats(0.005, 1.5),  # s since the frame before
    st.dictionaries(st.integers(1, 5), POINT, max_size=5),
    st.sets(st.integers(1, 5), max_size=2),  # tentative
)
ZONES = {
    "left": square(0, 0, 500, 500, dwell_s=1.0, loitering_s=2.0, occupancy_over=1, absence_s=1.0),
    "low": square(200, 250, 900, 500, crowding_over=0, crowding_s=0.5, stopped_s=0.5,
                  direction=(1, 0), classes=("car",)),
    "tip": ZoneConfig(polygon=((0.1, 0.9), (0.5, 0.1), (0.9, 0.9))),
}  # fmt: skip
LINES = {"middle": line(500, 500, 500, 0), "once": LineConfig(ends=((0, 0), (1, 1)), once=True)}


@settings(max_examples=120, deadline=None, derandomize=True)
@given(steps=st.lists(STEP, min_size=1, max_size=25), dies_at=st.integers(0, 25))
def test_books_balance_wherever_anybody_walks(steps, dies_at) -> None:
    """Also over a restart: every visit begins and ends, in this order, and counts never fall."""
    counters = [0] * COUNTERS
    watch = Watch(ZONES, LINES, counters=counters)
    told, alive, offset, time_s = [], set(), 0, 0.0
    for number, (step_s, places, tentative) in enumerate(steps):
        time_s += step_s
        if number == dies_at:  # another process goes on, with other tracks
            told += watch.happenings
            watch = Watch(ZONES, LINES, counters=counters, seq=watch.seq)
            offset, alive = offset + 100, set()
        px = {n + offset: (x * SIZE[0], y * SIZE[1]) for n, (x, y) in places.items()}
        gone = {n for n in alive if n - offset in tentative} - px.keys()
        alive = (alive | px.keys()) - gone
        watch.see(
            px, time_s=time_s, classes={n: n % 2 for n in px},
            tentative=[n + offset for n in tentative], ended=sorted(gone),
        )  # fmt: skip
        offset += 100 * bool(gone)  # an id that has ended never comes again
        alive = alive if not gone else set()
        occupancy = watch.analytics.readings(np.empty(0, np.int64)).occupancy
        assert min(occupancy) >= 0
    watch.end()
    told += watch.happenings
    assert watch.analytics.readings(np.empty(0, np.int64)).occupancy == (0, 0, 0)
    _check_visits(told)
    _check_conditions(told)
    _check_crossings(told)
    assert Totals(counters).left_over == ()


def _check_visits(told: list) -> None:
    open_visits, dwelt, loitered = set(), set(), set()
    totals = Counter()
    for event in told:
        key = (event.fields.get("zone"), event.fields.get("track_id"))
        if event.kind == "zone.enter":
            assert key not in open_visits
            open_visits.add(key)
            dwelt.discard(key)
            assert totals[key[0]] <= event.fields["total"] <= totals[key[0]] + 1
            totals[key[0]] = event.fields["total"]
        elif event.kind == "zone.leave":
            open_visits.remove(key)
            assert event.fields["dwell_s"] >= 0
        elif event.kind == "zone.dwell":
            assert key in open_visits
            assert key not in dwelt
            dwelt.add(key)
        elif event.kind == "loitering":
            assert key not in loitered
            loitered.add(key)
    assert not open_visits


def _check_conditions(told: list) -> None:
    """Each begins before it ends, and in turn."""
    for kind in ("zone.occupancy", "crowding", "absence"):
        for zone in ZONES:
            turns = [e.fields["active"] for e in told
                     if e.kind == kind and e.fields["zone"] == zone]  # fmt: skip
            assert turns == [number % 2 == 0 for number in range(len(turns))]


def _check_crossings(told: list) -> None:
    """A track's crossings go to and fro; counts rise by one each."""
    for name in LINES:
        crossed = [e.fields for e in told if e.kind == "line.crossed" and e.fields["line"] == name]
        counts = [(0, 0), *[(f["count_in"], f["count_out"]) for f in crossed]]
        for (a_in, a_out), (b_in, b_out) in itertools.pairwise(counts):
            assert (b_in - a_in, b_out - a_out) in ((1, 0), (0, 1))
        if name == "once":
            ways = Counter((f["track_id"], f["direction"]) for f in crossed)
            assert set(ways.values()) <= {1}


@SLOW
@given(visits=st.lists(st.tuples(st.integers(0, 2**40), st.integers(0, 63), st.integers(0, 300),
                                 st.integers(0, 2**50), st.tuples(PART, PART, PART, PART)),
                       max_size=20, unique_by=lambda visit: visit[:2]))  # fmt: skip
def test_visits_come_back_from_the_counters(visits) -> None:
    counters = [0] * COUNTERS
    totals = Totals(counters)
    totals.end(7, 99)
    for track_id, zone, kind, entered_ns, box in visits:
        totals.open(track_id, zone, kind, entered_ns, box)
    for track_id, zone, *_ in visits[1::2]:
        totals.close(track_id, zone)
    kept = {(v.track_id, v.zone): v for v in Totals(counters).left_over}
    assert kept.keys() == {visit[:2] for visit in visits[::2]}
    for track_id, zone, kind, entered_ns, box in visits[::2]:
        visit = kept[track_id, zone]
        assert (visit.class_index, visit.entered_ns, visit.left_ns) == (kind, entered_ns, 99)
        assert visit.box_rel == pytest.approx(box, abs=1e-4)
    assert MOST_VISITS > 800


@SLOW
@given(corners=st.lists(POINT, min_size=3, max_size=6))
def test_a_polygon_is_refused_if_and_only_if_its_edges_meet(corners) -> None:
    """Against a check of every pair of edges in whole numbers."""
    whole = [(round(1000 * x), round(1000 * y)) for x, y in corners]
    meets = _meets(whole)
    try:
        zone = ZoneConfig(polygon=tuple((x / 1024, y / 1024) for x, y in whole))  # exact
        check_view("cameras.gate", {"yard": zone}, {}, None, found=())
    except ConfigError:
        assert meets
    else:
        assert not meets


def _meets(corners: list[tuple[int, int]]) -> bool:
    count = len(corners)
    edges = [(corners[i], corners[(i + 1) % count]) for i in range(count)]
    if any(a == b for a, b in edges):
        return True
    for i, j in itertools.combinations(range(count), 2):
        shared = set(edges[i]) & set(edges[j])
        if j == i + 1 or (i == 0 and j == count - 1):
            others = [end for edge in (edges[i], edges[j]) for end in edge if end not in shared]
            if len(others) < 2 or any(
                _on(edges[k], end) for k in (i, j) for end in edges[i + j - k] if end not in shared
            ):
                return True
        elif _cut(edges[i], edges[j]):
            return True
    return False


def _side(a: tuple[int, int], b: tuple[int, int], p: tuple[int, int]) -> int:
    turn = (b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0])
    return (turn > 0) - (turn < 0)


def _on(edge: tuple[tuple[int, int], tuple[int, int]], p: tuple[int, int]) -> bool:
    (ax, ay), (bx, by) = edge
    within = min(ax, bx) <= p[0] <= max(ax, bx) and min(ay, by) <= p[1] <= max(ay, by)
    return within and _side(*edge, p) == 0


def _cut(one: tuple, other: tuple) -> bool:
    apart = _side(*one, other[0]) * _side(*one, other[1]) < 0
    crosses = apart and _side(*other, one[0]) * _side(*other, one[1]) < 0
    return crosses or any(_on(one, p) for p in other) or any(_on(other, p) for p in one)
