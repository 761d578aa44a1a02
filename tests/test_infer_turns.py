"""Whose turn it is: fairness, the window, and cameras that nobody waits for."""

from __future__ import annotations

import pytest

from streamer.inference.turns import Turns


def turns_of(count: int, *, most: int, collect_s: float = 0.01) -> Turns[str]:
    return Turns([f"c{n}" for n in range(count)], most=most, collect_s=collect_s)


def feed(turns: Turns[str], camera: str, *times_s: float) -> None:
    for time_s in times_s:
        turns.add(camera, f"{camera}@{time_s:g}", time_s)


def drain(turns: Turns[str], now_s: float) -> None:
    while turns.next(now_s):
        pass


def test_one_frame_of_each_camera_and_all_in_turn():
    turns = turns_of(3, most=2, collect_s=0)
    for camera in ("c0", "c1", "c2"):
        feed(turns, camera, 1, 2)
    batches = [turns.next(3) for _ in range(4)]
    assert batches == [["c0@1", "c1@1"], ["c2@1", "c0@2"], ["c1@2", "c2@2"], []]


def test_a_busy_camera_does_not_starve_the_others():
    turns = turns_of(2, most=1)
    feed(turns, "c0", *range(1, 9))
    feed(turns, "c1", 8.5)
    assert [turns.next(9)[0] for _ in range(3)] == ["c0@1", "c1@8.5", "c0@2"]


def test_a_frame_waits_for_one_that_is_due_and_goes_with_it():
    turns = turns_of(2, most=2)
    for camera, times_s in (("c0", (0.0, 0.1)), ("c1", (0.005, 0.105))):
        feed(turns, camera, *times_s)
    drain(turns, 0.11)
    feed(turns, "c0", 0.2)
    assert turns.next(0.2) == []
    assert turns.due_s == pytest.approx(0.21)
    feed(turns, "c1", 0.205)
    assert turns.next(0.205) == ["c0@0.2", "c1@0.205"]
    assert turns.due_s == float("inf")


def test_it_waits_no_longer_than_the_window():
    turns = turns_of(2, most=2)
    for camera, times_s in (("c0", (0.0, 0.1)), ("c1", (0.005, 0.105))):
        feed(turns, camera, *times_s)
    drain(turns, 0.11)
    feed(turns, "c0", 0.2)
    assert turns.next(0.2) == []
    assert turns.next(turns.due_s) == ["c0@0.2"]


@pytest.mark.parametrize(
    "other_s",
    [
        pytest.param((), id="it never came"),
        pytest.param((0.0,), id="its rate is unknown"),
        pytest.param((0.0, 0.15), id="its next frame is due long after the window"),
        pytest.param((0.0, 0.02), id="it should have come long ago"),
    ],
)
def test_nobody_waits_for_a_camera_that_is_not_due(other_s):
    turns = turns_of(2, most=2)
    feed(turns, "c0", 0.0, 0.1)
    feed(turns, "c1", *other_s)
    drain(turns, 0.15)
    feed(turns, "c0", 0.2)
    assert turns.next(0.2) == ["c0@0.2"]


def test_nobody_waits_for_a_camera_that_has_ended():
    turns = turns_of(2, most=2)
    for camera in ("c0", "c1"):
        feed(turns, camera, 0.0, 0.1)
    turns.end("c1")
    drain(turns, 0.11)
    feed(turns, "c0", 0.195)
    assert turns.next(0.195) == ["c0@0.195"]


def test_a_frame_that_is_old_already_does_not_wait():
    turns = turns_of(2, most=2)
    for camera in ("c0", "c1"):
        feed(turns, camera, 0.0, 0.1)
    drain(turns, 0.11)
    turns.add("c0", "old", 0.197, 0.19)
    assert turns.next(0.197) == ["old"]


def test_no_two_frames_of_one_camera_in_one_batch():
    turns = turns_of(2, most=8)
    feed(turns, "c0", 0.0, 0.1, 0.2)
    assert [turns.next(1) for _ in range(4)] == [["c0@0"], ["c0@0.1"], ["c0@0.2"], []]
