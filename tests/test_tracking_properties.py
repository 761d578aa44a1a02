"""What holds for any detections: finite boxes, unique ids, best assignment, the exact filter."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.tracking import CONFIRMED, LOST, TENTATIVE, Detections, kalman, make_tracker
from streamer.tracking.association import assign, iou
from streamer.tracking.tracker import NOISE

COORDINATE = st.floats(width=32, allow_nan=True, allow_infinity=True) | st.floats(0, 500, width=32)
BOX = st.tuples(COORDINATE, COORDINATE, COORDINATE, COORDINATE)
DETECTION = st.tuples(BOX, st.floats(0, 1, width=32), st.integers(0, 3))
FRAME = st.tuples(st.lists(DETECTION, max_size=8), st.floats(-0.2, 1.0))


def arrays(rows: list) -> Detections:
    return Detections(
        np.array([row[0] for row in rows], np.float32).reshape(-1, 4),
        np.array([row[1] for row in rows], np.float32),
        np.array([row[2] for row in rows], np.int64),
    )


@pytest.mark.parametrize("name", ["default", "sort", "bytetrack", "ocsort", "botsort"])
@settings(max_examples=25, deadline=None, derandomize=True)
@given(frames=st.lists(FRAME, min_size=1, max_size=12))
def test_any_detections_give_sound_tracks(name, frames):
    tracker = make_tracker(name, class_groups=[[1, 2]], lost_s=2.0)
    time_s, ended, alive = 0.0, set(), set()
    for rows, step_s in frames:
        time_s += step_s
        given_boxes = arrays(rows)
        tracks = tracker.update(given_boxes, time_s)
        ids, gone = set(tracks.ids.tolist()), set(tracks.ended.tolist())
        assert len(ids) == len(tracks)
        assert len(gone) == len(tracks.ended)
        assert np.isfinite(tracks.boxes_xyxy).all()
        assert np.isfinite(tracks.velocities_px_s).all()
        assert (tracks.boxes_xyxy[:, 2:] >= tracks.boxes_xyxy[:, :2]).all()
        assert set(tracks.state.tolist()) <= {TENTATIVE, CONFIRMED, LOST}
        matched = tracks.detection[tracks.detection >= 0]
        assert len(set(matched.tolist())) == len(matched)
        assert given_boxes.usable()[matched].all()
        # Every track that was alive is alive or has ended, once, and never comes back.
        assert alive <= ids | gone
        assert not ids & (ended | gone)
        assert not gone & ended
        ended |= gone
        alive = ids


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    rows=st.integers(0, 5),
    columns=st.integers(0, 5),
    limit=st.sampled_from([0.3, 0.6, 0.9]),
    seed=st.integers(0, 2**32 - 1),
)
def test_assignment_is_the_best_of_all(rows, columns, limit, seed):
    cost = np.random.default_rng(seed).random((rows, columns))
    chosen_rows, chosen_columns = assign(cost, limit)
    assert len(set(chosen_rows.tolist())) == len(chosen_rows)
    assert len(set(chosen_columns.tolist())) == len(chosen_columns)
    assert (cost[chosen_rows, chosen_columns] < limit).all()
    profit = np.minimum(cost - limit, 0.0)
    if rows > columns:
        profit = profit.T
    orders = itertools.permutations(range(profit.shape[1]), profit.shape[0])
    best = min((sum(profit[i, j] for i, j in enumerate(order)) for order in orders), default=0.0)
    assert (cost[chosen_rows, chosen_columns] - limit).sum() == pytest.approx(best, abs=1e-9)


def test_iou_of_known_boxes():
    a = np.array([[0.0, 0, 10, 10], [100, 100, 110, 110]])
    b = np.array([[0.0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30]])
    np.testing.assert_allclose(iou(a, b), [[1, 1 / 3, 0], [0, 0, 0]])


class Textbook:
    """One box's filter with 8x8 matrices: F P F' + Q, then the gain P H' / (H P H' + R)."""

    def __init__(self, box: np.ndarray, noise: kalman.Noise) -> None:
        self.noise = noise
        scale = np.tile(box[2:], 2)
        self.mean = np.concatenate([box, np.zeros(4)])
        spread = [noise.measured * scale, noise.first_velocity * scale]
        self.covariance = np.diag(np.concatenate(spread) ** 2)

    def predict(self, dt_s: float, scale: np.ndarray) -> None:
        one, zero = np.eye(4), np.zeros((4, 4))
        step = np.block([[one, one * dt_s], [zero, one]])
        drift = np.diag((self.noise.drift * scale) ** 2)
        agility = np.diag((self.noise.agility * scale) ** 2)
        grown = np.block(
            [
                [drift * dt_s + agility * dt_s**3 / 3, agility * dt_s**2 / 2],
                [agility * dt_s**2 / 2, agility * dt_s],
            ]
        )
        self.mean = step @ self.mean
        self.covariance = step @ self.covariance @ step.T + grown

    def correct(self, box: np.ndarray, var_measured: np.ndarray) -> None:
        seen = np.hstack([np.eye(4), np.zeros((4, 4))])
        spread = seen @ self.covariance @ seen.T + np.diag(var_measured)
        gain = self.covariance @ seen.T @ np.linalg.inv(spread)
        self.mean = self.mean + gain @ (box - seen @ self.mean)
        self.covariance = (np.eye(8) - gain @ seen) @ self.covariance


@pytest.mark.parametrize(
    "noise",
    [NOISE, kalman.Noise(*(np.array(v) for v in np.random.default_rng(9).random((4, 4)) + 0.1))],
)
def test_filter_equals_the_textbook(noise):
    dice = np.random.default_rng(2)
    boxes = dice.uniform(50, 300, (6, 4))
    belief = kalman.begin(boxes, noise)
    slow = [Textbook(box, noise) for box in boxes]
    for _ in range(40):
        dt_s = dice.uniform(0.0, 0.3, (6, 1))
        scale = kalman.scales(boxes)
        belief = kalman.predict(belief, dt_s, scale, noise)
        boxes = boxes + dice.normal(0, 3, boxes.shape)
        measured = (noise.measured * kalman.scales(boxes)) ** 2
        for one, step_s, size, box, var in zip(slow, dt_s, scale, boxes, measured, strict=True):
            one.predict(float(step_s[0]), size)
            one.correct(box, var)
        belief = kalman.correct(belief, boxes, measured)
        mean = np.stack([one.mean for one in slow])
        np.testing.assert_allclose(np.hstack([belief.pos, belief.vel]), mean, atol=1e-6)
        for name, row, column in (("var", 0, 0), ("cov", 0, 4), ("var_vel", 4, 4)):
            blocks = [one.covariance[row : row + 4, column : column + 4] for one in slow]
            expected = np.stack([np.diag(block) for block in blocks])
            np.testing.assert_allclose(getattr(belief, name), expected, atol=1e-6, rtol=1e-9)


def test_moving_the_coordinates_moves_the_belief():
    belief = kalman.begin(np.array([[100.0, 50, 20, 40]]), NOISE)
    belief.vel[:] = [[10.0, 0, 0, 0]]
    quarter = np.array([[0.0, -2, 7], [2, 0, 9]])  # a quarter turn, twice as large, and a shift
    moved = kalman.move(belief, quarter)
    np.testing.assert_allclose(moved.pos, [[-93, 209, 40, 80]])
    np.testing.assert_allclose(moved.vel, [[0, 20, 0, 0]], atol=1e-12)
    np.testing.assert_allclose(moved.var, belief.var[:, [1, 0, 2, 3]] * 4)
