"""Which frames are looked at beside inference, and what a stage that dies leaves behind."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from samples import info_of

from streamer.annotator import Cadence
from streamer.ledger import COUNTERS
from streamer.unfinished import MOST, MOST_CAMERAS, Left, Unfinished


def takes(cadence: Cadence, ms: int, *, camera: str = "gate", anew: bool = False) -> bool:
    info = msgspec.structs.replace(info_of(ms, camera=camera), pts=ms, time_base=(1, 1000))
    return cadence.takes(info, anew=anew)


@pytest.mark.parametrize("fps", [8, 10, 12.5, 15, 25, 29.97, 60])
def test_cameras_of_any_rate_are_looked_at_alike(fps: float) -> None:
    cadence = Cadence(8)
    taken = [n for n in range(round(20 * fps)) if takes(cadence, round(n * 1000 / fps))]
    assert len(taken) == pytest.approx(160, abs=1)
    gaps_s = [(b - a) / fps for a, b in itertools.pairwise(taken)]
    assert max(gaps_s) <= 1 / 8 + 1 / fps + 1e-6


def test_a_slow_camera_is_looked_at_whole() -> None:
    cadence = Cadence(8)
    assert all(takes(cadence, n * 200) for n in range(50))


def test_a_gap_a_jump_and_a_clock_that_goes_back_begin_anew() -> None:
    cadence = Cadence(5)
    assert takes(cadence, 0)
    assert not takes(cadence, 100)
    assert takes(cadence, 110, anew=True)
    assert not takes(cadence, 150)
    assert takes(cadence, 1_000_000)
    assert not takes(cadence, 1_000_100)
    assert takes(cadence, 1_000_200)
    assert takes(cadence, 5)


def test_each_camera_has_its_own() -> None:
    cadence = Cadence(5)
    assert takes(cadence, 0)
    assert takes(cadence, 50, camera="yard")
    assert not takes(cadence, 100)
    assert takes(cadence, 250, camera="yard")


def test_what_goes_on_outlives_its_process() -> None:
    counters = [0] * COUNTERS
    first = Unfinished(counters, ["gate", "yard"])
    assert first.answer("gate", 4, 400) == []
    first.begin("gate", 7, 2, 350)
    first.begin("gate", 0, 0, 360)
    first.begin("yard", 0, 1, 100)
    first.end("gate", 0, 0)
    first.end("gate", 9, 9)  # never begun
    assert first.answer("gate", 5, 500) == []

    second = Unfinished(counters, ["gate", "yard"])
    assert second.answer("gate", 5, 500) == []  # said again, so nobody hears it
    assert second.answer("gate", 6, 600) == [Left(7, 2, 350, 500)]
    assert second.answer("gate", 7, 700) == []
    assert second.drop("yard") == [Left(0, 1, 100, 0)]
    assert second.drop("yard") == []

    third = Unfinished(counters, ["gate", "yard"])
    assert third.answer("gate", 8, 800) == []


def test_there_is_room_for_so_many_and_no_more() -> None:
    counters = [0] * COUNTERS
    cameras = [str(number) for number in range(MOST_CAMERAS + 1)]
    first = Unfinished(counters, cameras)
    for who in range(MOST + 10):
        first.begin("0", who, (1 << 20) - 1, who)
    first.begin(cameras[-1], 0, 0, 0)
    assert first.answer(cameras[-1], 0, 0) == []
    left = Unfinished(counters, cameras).drop("0")
    assert sorted(each.who for each in left) == list(range(MOST))
    assert {each.what for each in left} == {(1 << 20) - 1}
