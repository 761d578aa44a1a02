"""Motion between two pictures: found, applied, coded."""

from __future__ import annotations

import numpy as np
import pytest
from codec_tiny import moving_pictures, tiny_model

from engines.codec import motion
from engines.codec.base import Picture
from engines.codec.entropy import FrameReader, FrameWriter
from engines.codec.errors import BitstreamError
from engines.codec.model import ModelFile
from engines.codec.motion import BLEND, FARTHEST, FILTERS, find_motion, move
from engines.codec.vectors import read_vectors, write_vectors

TABLES = ModelFile.read(tiny_model(), decodes=()).tables("y")


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(20, 236, (height // 4, width // 4)).astype(np.uint8)
    return np.kron(coarse, np.ones((4, 4), np.uint8))


def code(vectors: np.ndarray, before: np.ndarray) -> bytes:
    writer = FrameWriter()
    write_vectors(writer, vectors, before, TABLES)
    return writer.finish()


def test_a_picture_that_moves_is_found_where_it_was():
    before, now = (p.y for p in moving_pictures(2, 192, 128))
    vectors = find_motion(now, before)
    assert vectors.shape == (8, 12, 2)
    right = (vectors == (8, 0)).all(-1)  # two samples, in quarters
    assert right.mean() > 0.8


def test_nothing_moves_where_nothing_changes():
    plane = noise(64, 128)
    assert not find_motion(plane, plane).any()
    assert not find_motion(np.full((64, 64), 90, np.uint8), np.full((64, 64), 91, np.uint8)).any()


def test_a_large_picture_is_searched_at_half_of_its_size(monkeypatch):
    plane = noise(128, 256)
    now = np.hstack((np.roll(plane[:, :128], 4, 0), np.roll(plane[:, 128:], -4, 0)))
    monkeypatch.setattr(motion, "SEARCHED", plane.size // 4)
    vectors = find_motion(now, plane)
    assert vectors.shape == (8, 16, 2)
    assert abs(np.median(vectors[1:-1, 1:7, 1]) + 16) <= 2
    assert abs(np.median(vectors[1:-1, 9:15, 1]) - 16) <= 2


def test_two_things_that_move_apart_have_vectors_of_their_own():
    plane = noise(128, 256)
    now = np.hstack((np.roll(plane[:, :128], 4, 0), np.roll(plane[:, 128:], -4, 0)))
    vectors = find_motion(now, plane)
    assert np.median(vectors[1:-1, 1:7, 1]) == -16
    assert np.median(vectors[1:-1, 9:15, 1]) == 16


@pytest.mark.parametrize(("x", "y"), [(0, 0), (8, -12), (32, 16), (-40, 4)])
def test_whole_vectors_move_samples_and_repeat_edges(x, y):
    luma = noise(64, 96, 1)
    picture = Picture(luma, luma[::2, ::2].copy(), luma[1::2, 1::2].copy())
    moved = move(picture, np.full((4, 6, 2), (x, y), np.int32))
    for plane, of, unit in ((luma, moved.y, 4), (picture.u, moved.u, 8), (picture.v, moved.v, 8)):
        if x % unit or y % unit:
            continue
        rows = np.clip(np.arange(len(plane)) + y // unit, 0, len(plane) - 1)
        columns = np.clip(np.arange(len(plane[0])) + x // unit, 0, len(plane[0]) - 1)
        np.testing.assert_array_equal(of, plane[np.ix_(rows, columns)])


def test_parts_of_a_sample_are_between_its_neighbours():
    luma = np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1))
    picture = Picture(luma, luma[::2, ::2].copy(), luma[::2, ::2].copy())
    moved = move(picture, np.full((4, 4, 2), (3, 2), np.int32))
    inside = slice(3, -4)  # what no filter sees beyond the edges
    np.testing.assert_array_equal(moved.y[:, inside], luma[:, inside] + 3)
    np.testing.assert_array_equal(moved.u[:, inside], picture.u[:, inside] + 2)  # 1/4 of 8


def test_samples_between_others_are_what_the_filters_say():
    rng = np.random.default_rng(4)
    luma = rng.integers(0, 256, (64, 64)).astype(np.uint8)
    picture = Picture(luma, luma[::2, ::2].copy(), luma[::2, ::2].copy())
    for x, y in ((-5, 7), (302, -111), (1, 0)):
        moved = move(picture, np.full((4, 4, 2), (x, y), np.int32)).y
        wide = np.pad(luma.astype(int), 40, mode="edge")
        for row, column in rng.integers(0, 64, (40, 2)):
            top = int(np.clip(row + y // 4, -30, 90)) - 3 + 40
            left = int(np.clip(column + x // 4, -30, 90)) - 3 + 40
            around = wide.take(range(top, top + 8), 0, mode="clip")
            around = around.take(range(left, left + 8), 1, mode="clip")
            total = FILTERS[y % 4] @ around @ FILTERS[x % 4]
            assert moved[row, column] == np.clip(np.rint(total), 0, 255)


def test_a_block_goes_over_into_what_its_neighbour_says():
    luma = noise(64, 64, 3)
    picture = Picture(luma, luma[::2, ::2].copy(), luma[::2, ::2].copy())
    vectors = np.zeros((4, 4, 2), np.int32)
    vectors[:, 2:] = (0, 8)
    left, right = luma.astype(int), np.roll(luma, -2, 0).astype(int)
    moved = move(picture, vectors).y[:-2].astype(int)
    np.testing.assert_array_equal(moved[:, :24], left[:-2, :24])
    np.testing.assert_array_equal(moved[:, 40:], right[:-2, 40:])
    for step, weight in enumerate(BLEND):
        for own, other, column in ((left, right, 31 - step), (right, left, 32 + step)):
            mixed = (32 - weight) * own[:-2, column] + weight * other[:-2, column]
            np.testing.assert_array_equal(moved[:, column], (mixed + 16) // 32)


@pytest.mark.parametrize("kind", ["still", "few", "pan", "wild", "as before"])
def test_vectors_come_back(kind):
    rng = np.random.default_rng(2)
    before = rng.integers(-40, 40, (8, 12, 2)).astype(np.int32)
    vectors = {
        "still": np.zeros_like(before),
        "few": np.where(rng.random((8, 12, 1)) < 0.05, before, 0),
        "pan": np.full_like(before, 37),
        "wild": rng.integers(-FARTHEST, FARTHEST + 1, before.shape).astype(np.int32),
        "as before": before + 1,
    }[kind]
    payload = code(vectors, before)
    got = read_vectors(FrameReader(payload, where="t"), before, TABLES, where="t")
    np.testing.assert_array_equal(got, vectors)
    assert len(payload) < {"still": 8, "few": 60, "pan": 20, "wild": 400, "as before": 20}[kind]


def test_damaged_vectors_are_refused_or_stay_in_reach():
    before = np.zeros((8, 8, 2), np.int32)
    writer = FrameWriter()
    writer.write(np.array([0, 70, 1], np.int32), np.zeros(3, np.uint8), TABLES)
    with pytest.raises(
        BitstreamError, match=r"t: vectors by rule 0 and tables \[70, 1\]; the data"
    ):
        read_vectors(FrameReader(writer.finish(), where="t"), before, TABLES, where="t")
    payload = code(np.full_like(before, FARTHEST), before)
    far = read_vectors(FrameReader(payload, where="t"), before + 9000, TABLES, where="t")
    assert np.abs(far).max() <= FARTHEST
