"""Frames and their annotations: each frame comes out once, in order, with one of three."""

from __future__ import annotations

import random

import pytest

from streamer.join import Join, Joined

BOXES = "boxes"


def Out(item: str, result: str | None, skipped: str) -> Joined[str, str]:  # noqa: N802 - a row
    """What comes out where there is one kind of annotation."""
    results = {} if result is None else {BOXES: result}
    return Joined(item, results, {BOXES: skipped} if skipped else {})


def test_a_result_goes_with_its_frame() -> None:
    join: Join[str, str] = Join([BOXES], None)
    assert join.next(0.0) is None
    join.add(4, "four", 0.0)
    assert join.next(1e9) is None  # offline nothing is late
    join.annotate(BOXES, 4, "boxes")
    assert join.next(0.0) == Out("four", "boxes", "")
    assert join.next(0.0) is None
    assert len(join) == 0


def test_a_result_may_come_first() -> None:
    join: Join[str, str] = Join([BOXES], 0.2)
    join.annotate(BOXES, 4, "boxes")
    join.skip(BOXES, 5, "busy")
    join.add(4, "four", 0.0)
    join.add(5, "five", 0.0)
    assert join.next(0.0) == Out("four", "boxes", "")
    assert join.next(0.0) == Out("five", None, "busy")


def test_frames_wait_for_the_oldest() -> None:
    join: Join[str, str] = Join([BOXES], None)
    join.add(0, "zero", 0.0)
    join.add(1, "one", 0.0)
    join.skip(BOXES, 1, "busy")
    assert join.next(0.0) is None
    join.annotate(BOXES, 0, "boxes")
    assert [join.next(0.0), join.next(0.0)] == [Out("zero", "boxes", ""), Out("one", None, "busy")]


def test_a_later_result_says_that_an_earlier_is_not_coming() -> None:
    join: Join[str, str] = Join([BOXES], None)
    join.add(0, "zero", 0.0)
    join.add(1, "one", 0.0)
    join.annotate(BOXES, 1, "boxes")
    assert join.next(0.0) == Out("zero", None, "overtaken")
    assert join.next(0.0) == Out("one", "boxes", "")


def test_a_skip_overtakes_nobody() -> None:
    """Skips come from decode, at once; results of earlier frames are still on their way."""
    join: Join[str, str] = Join([BOXES], None)
    join.add(0, "zero", 0.0)
    join.skip(BOXES, 1, "busy")
    assert join.next(0.0) is None


@pytest.mark.parametrize("first", ["skip", "result"])
def test_a_result_counts_more_than_a_skip(first: str) -> None:
    join: Join[str, str] = Join([BOXES], None)
    join.add(0, "zero", 0.0)
    for what in (first, "result", "skip"):
        if what == "skip":
            join.skip(BOXES, 0, "busy")
        else:
            join.annotate(BOXES, 0, "boxes")
    assert join.next(0.0) == Out("zero", "boxes", "")


def test_the_deadline_is_the_frames_own() -> None:
    join: Join[str, str] = Join([BOXES], 0.2)
    assert join.due_s == float("inf")
    join.add(0, "zero", 10.0)
    join.add(1, "one", 10.125)
    assert join.due_s == 10.2
    assert join.next(10.19) is None
    assert join.next(10.2) == Out("zero", None, "deadline")
    assert join.due_s == 10.325
    assert join.next(10.3) is None
    join.annotate(BOXES, 0, "too late")
    assert join.next(10.3) is None
    join.annotate(BOXES, 1, "boxes")
    assert join.next(10.3) == Out("one", "boxes", "")


def test_without_a_deadline_nothing_is_due() -> None:
    join: Join[str, str] = Join([BOXES], None)
    join.add(0, "zero", 0.0)
    assert join.due_s == float("inf")


def test_no_more_results_frees_those_that_wait_and_those_that_come() -> None:
    join: Join[str, str] = Join([BOXES], None)
    join.add(0, "zero", 0.0)
    join.add(1, "one", 0.0)
    join.annotate(BOXES, 0, "boxes")
    join.skip(BOXES, 2, "busy")
    join.no_more_results(BOXES, "failed")
    join.add(2, "two", 0.0)
    join.add(3, "three", 0.0)
    assert [join.next(0.0) for _ in range(4)] == [
        Out("zero", "boxes", ""),
        Out("one", None, "failed"),
        Out("two", None, "busy"),
        Out("three", None, "failed"),
    ]


@pytest.mark.parametrize("deadline_s", [None, 0.2])
@pytest.mark.parametrize("seed", range(30))
def test_every_frame_comes_out_once_in_order_with_one_of_three(
    seed: int, deadline_s: float | None
) -> None:
    """Random arrivals on a fake clock: what is decided for a frame is what had come by then."""
    generator = random.Random(seed)
    frames = sorted(generator.sample(range(400), 120))
    annotated = {seq for seq in frames if generator.random() < 0.6}
    skipped = {seq for seq in frames if seq not in annotated and generator.random() < 0.5}
    events: list[tuple[float, str, int]] = []
    result_at = 0.0
    for seq in frames:
        at = seq * 0.04
        events.append((at, "frame", seq))
        late = at + generator.uniform(-0.05, 0.5)
        if seq in annotated:
            result_at = max(result_at, late)  # results come in order
            events.append((result_at, "result", seq))
        elif seq in skipped:
            events.append((late, "skip", seq))
    events.sort(key=lambda event: event[0])

    join: Join[int, int] = Join([BOXES], deadline_s)
    came: dict[int, str] = {}
    added_at: dict[int, float] = {}
    out: list[int] = []

    def drain(now: float) -> None:
        while (joined := join.next(now)) is not None:
            seq = joined.item
            out.append(seq)
            skip = joined.skipped.get(BOXES, "")
            if joined.results:
                assert joined.results == {BOXES: seq}
                assert came[seq] == "result"
                assert skip == ""
            elif skip == "deadline":
                assert deadline_s is not None
                assert now >= added_at[seq] + deadline_s
                assert seq not in came
            elif skip == "busy":
                assert came[seq] == "skip"
            elif skip == "overtaken":
                assert any(other > seq for other, what in came.items() if what == "result")
            else:
                assert skip == "ended"
                assert ended

    ended = False
    for at, what, seq in events:
        while join.due_s <= at:  # the stage wakes up for it
            drain(join.due_s)
        if what == "frame":
            added_at[seq] = at
            join.add(seq, seq, at)
        elif what == "result":
            came[seq] = what
            join.annotate(BOXES, seq, seq)
        else:
            came[seq] = what
            join.skip(BOXES, seq, "busy")
        drain(at)
    ended = True
    join.no_more_results(BOXES, "ended")
    drain(1e9)
    assert out == frames
    assert len(join) == 0


def test_nothing_is_kept_of_what_has_left() -> None:
    join: Join[int, int] = Join([BOXES], 0.1)
    for seq in range(1000):
        join.add(seq, seq, seq * 1.0)
        if seq % 3:
            join.annotate(BOXES, seq - 2, seq)  # late
            join.skip(BOXES, seq - 1, "busy")
        assert join.next(seq + 0.1) is not None
    kind = join._kinds[BOXES]
    assert len(kind.results) <= 2
    assert len(kind.skips) <= 2


def test_a_frame_waits_for_all_kinds() -> None:
    join: Join[str, str] = Join(["boxes", "masks"], 0.2)
    join.add(0, "zero", 0.0)
    join.annotate("boxes", 0, "b0")
    assert join.next(0.1) is None
    join.skip("masks", 0, "busy")
    assert join.next(0.1) == Joined("zero", {"boxes": "b0"}, {"masks": "busy"})
    join.add(1, "one", 1.0)
    join.annotate("masks", 1, "m1")
    assert join.next(1.2) == Joined("one", {"masks": "m1"}, {"boxes": "deadline"})
    join.no_more_results("boxes", "failed")
    assert not join.complete
    join.no_more_results("masks", "ended")
    assert join.complete
    join.add(2, "two", 2.0)
    assert join.next(2.0) == Joined("two", {}, {"boxes": "failed", "masks": "ended"})


def test_without_kinds_nothing_waits() -> None:
    join: Join[str, str] = Join([], None)
    join.add(0, "zero", 0.0)
    assert join.next(0.0) == Joined("zero", {}, {})
