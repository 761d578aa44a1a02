"""What video carries over, and when nothing is."""

from __future__ import annotations

from collections.abc import Iterator

import cascade_tiny
import numpy as np
import pytest
from cascade_tiny import HEIGHT, WIDTH, planes
from numpy.typing import NDArray

from engines.cascade.carry import Carry, CarryOptions
from engines.cascade.picture import Placement
from engines.cascade.runtime import Memory, Segmenter

MS = 1_000_000
WHOLE = Placement(WIDTH, HEIGHT)
IMPATIENT = CarryOptions(stale=0, refresh_s=10, rho=0)


def still(level: int = 90) -> NDArray[np.uint8]:
    return np.full((3, HEIGHT, WIDTH), level, np.uint8)


def moved(row: int, column: int, by: int = 60) -> NDArray[np.uint8]:
    """A still picture of which one block has changed."""
    picture = still()
    picture[0, row * 16 : row * 16 + 16, column * 16 : column * 16 + 16] += by
    return picture


def test_a_still_picture_is_labelled_once() -> None:
    carry = Carry(IMPATIENT, 16)
    assert carry.choose(still(), WHOLE, 0).all()
    assert not carry.choose(still(93), WHOLE, 40 * MS).any(), "noise is no change"


def test_only_what_changed_is_labelled_anew() -> None:
    carry = Carry(IMPATIENT, 16)
    carry.choose(still(), WHOLE, 0)
    chosen = carry.choose(moved(2, 3), WHOLE, 40 * MS)
    assert chosen[2, 3]
    assert chosen.sum() == 1
    assert not carry.choose(moved(2, 3), WHOLE, 80 * MS).any(), "it is what was labelled last"


def test_slow_change_adds_up() -> None:
    carry = Carry(IMPATIENT, 16)
    chosen = [
        carry.choose(still(90 + index), WHOLE, index * 40 * MS).any() for index in range(1, 9)
    ]
    assert chosen[0]
    assert not any(chosen[1:7])
    assert chosen[7]


def test_little_change_waits_but_not_for_ever() -> None:
    carry = Carry(CarryOptions(stale=0.1, stale_s=0.1, refresh_s=10), 16)
    carry.choose(still(), WHOLE, 0)
    chosen = [carry.choose(moved(1, 1), WHOLE, ms * MS).sum() for ms in (40, 80, 120, 160, 200)]
    assert chosen == [0, 0, 0, 1, 0]


@pytest.mark.parametrize(
    ("media_time_ns", "discontinuity"), [(5000 * MS, False), (-1, False), (40 * MS, True)]
)
def test_nothing_is_carried_across_a_gap(media_time_ns: int, discontinuity: bool) -> None:
    carry = Carry(IMPATIENT, 16)
    carry.choose(still(), WHOLE, 0)
    assert carry.choose(still(), WHOLE, media_time_ns, discontinuity=discontinuity).all()


def test_another_size_and_another_scene_start_anew() -> None:
    carry = Carry(IMPATIENT, 16)
    carry.choose(still(), WHOLE, 0)
    half = Placement(WIDTH, HEIGHT // 2)
    chosen = carry.choose(still(), half, 40 * MS)
    assert chosen[: HEIGHT // 32].all()
    assert not chosen[HEIGHT // 32 :].any(), "blocks without a part of the frame are never labelled"
    carry.choose(still(), WHOLE, 80 * MS)
    scene = still(200)
    scene[:, :20] = 90
    assert carry.choose(scene, WHOLE, 120 * MS).all()


def test_everything_is_refreshed_now_and_then() -> None:
    carry = Carry(CarryOptions(refresh_s=0.1), 16)
    chosen = [carry.choose(still(), WHOLE, ms * MS).all() for ms in (0, 40, 80, 120, 160, 200)]
    assert chosen == [True, False, False, True, False, False]


@pytest.mark.parametrize(
    "wrong", [{"stale": 1.0}, {"cut": 0.0}, {"gap_s": 0.0}, {"threshold": -1}, {"rho": 1.1}]
)
def test_options_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="carry: threshold and stale_s must be 0 or more"):
        CarryOptions(**wrong)


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Segmenter]:
    folder = tmp_path_factory.mktemp("cascade")
    cascade_tiny.exported(folder, cascade_tiny.random_net(), 0.36)
    made = Segmenter.load(folder, carry=IMPATIENT)
    yield made
    made.close()


def test_labels_are_carried_and_counted(segmenter: Segmenter) -> None:
    memory = segmenter.new_memory()
    first = segmenter.segment(planes(0), media_time_ns=0, memory=memory)
    assert (first.carried, sum(first.decided)) == (0, pytest.approx(1))
    second = segmenter.segment(planes(0), media_time_ns=40 * MS, memory=memory)
    assert (second.carried, second.decided) == (1, (0, 0, 0))
    assert (second.labels == first.labels).all()
    third = segmenter.segment(planes(0), media_time_ns=80 * MS, discontinuity=True, memory=memory)
    assert third.carried == 0
    assert (third.labels == first.labels).all()


def test_what_later_stages_found_out_is_carried_where_nothing_changed(
    segmenter: Segmenter,
) -> None:
    memory = segmenter.new_memory()
    assert memory is not None
    y, u, v = planes(0)
    first = segmenter.segment((y, u, v), media_time_ns=0, memory=memory)
    later, before = memory.stage_of > 1, memory.logits
    assert before is not None
    assert 4 < later.sum() < 48, "some blocks were hard, not all"
    other = y.copy()
    other[:16, :32] = 255 - other[:16, :32]
    found = segmenter.segment((other, u, v), media_time_ns=40 * MS, memory=memory)
    changed = np.zeros_like(later)
    changed[0, :2] = True
    carried = later & ~changed
    assert found.carried == pytest.approx(carried.mean())
    assert sum(found.decided) == pytest.approx(1 - found.carried)
    positions = carried.repeat(4, axis=0).repeat(4, axis=1)
    assert memory.logits is not None
    assert (memory.logits == before)[:, positions].all()
    assert first.carried == 0


def test_frames_that_others_carry_are_labelled_with_more_care(segmenter: Segmenter) -> None:
    careful = Memory(CarryOptions(rho=1.0), segmenter.stages.signature)
    first = segmenter.segment(planes(0), memory=careful)
    usual = segmenter.segment(planes(0), memory=segmenter.new_memory())
    assert first.decided[0] == 0 < usual.decided[0], "nothing is decided at a rho of 1"


def test_two_cameras_do_not_mix(segmenter: Segmenter) -> None:
    one, two = segmenter.new_memory(), segmenter.new_memory()
    alone = segmenter.segment(planes(5), memory=segmenter.new_memory())
    segmenter.segment(planes(4), media_time_ns=0, memory=one)
    other = segmenter.segment(planes(5), media_time_ns=0, memory=two)
    assert other.carried == 0
    assert (other.labels == alone.labels).all()
    assert segmenter.segment(planes(4), media_time_ns=40 * MS, memory=one).carried == 1


def test_a_memory_can_be_reset(segmenter: Segmenter) -> None:
    memory = segmenter.new_memory()
    assert memory is not None
    segmenter.segment(planes(0), memory=memory)
    memory.reset()
    assert segmenter.segment(planes(0), memory=memory).carried == 0


def test_labels_that_wait_follow_the_picture(segmenter: Segmenter) -> None:
    y, u, v = planes(0)
    moved_y = y.copy()
    moved_y[16:80, 16:96] = y[16:80, 12:92]
    found = []
    for follow in (True, False):
        options = CarryOptions(stale=0.8, stale_s=1, cut=1, rho=0, follow=follow)
        memory = Memory(options, segmenter.stages.signature)
        first = segmenter.segment((y, u, v), memory=memory)
        second = segmenter.segment((moved_y, u, v), media_time_ns=40 * MS, memory=memory)
        assert (second.carried, second.decided) == (1, (0, 0, 0))
        assert sum(second.shares) == pytest.approx(1)
        again = segmenter.segment((y, u, v), media_time_ns=80 * MS, memory=memory)
        assert (again.labels == first.labels).all(), "moves do not add up"
        found.append((first.labels, second.labels))
    (first_labels, followed), (_, kept) = found
    assert (kept == first_labels).all()
    wanted, inside = first_labels[24:72, 20:84], (slice(24, 72), slice(24, 88))
    assert (followed[inside] == wanted).mean() > (kept[inside] == wanted).mean()
