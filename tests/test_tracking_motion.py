"""The camera's motion between two pictures of a textured wall, and when it cannot be told."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from streamer.tracking.motion import estimate_motion

NO_BOXES = np.empty((0, 4), np.float32)


@pytest.fixture(scope="module")
def wall() -> np.ndarray:
    noise = np.random.default_rng(4).integers(0, 256, (60, 100)).astype(np.uint8)
    return cv2.resize(noise, (400, 240), interpolation=cv2.INTER_CUBIC)


def view(wall: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """What a camera sees that moved by an affine, 320x180."""
    to_view = affine @ np.array([[1.0, 0, -40], [0, 1, -30], [0, 0, 1]])
    return cv2.warpAffine(wall, to_view, (320, 180), flags=cv2.INTER_CUBIC)


def similarity(degrees: float, zoom: float, x: float, y: float) -> np.ndarray:
    c, s = zoom * np.cos(np.radians(degrees)), zoom * np.sin(np.radians(degrees))
    return np.array([[c, -s, x], [s, c, y]])


@pytest.mark.parametrize(
    ("degrees", "zoom", "x", "y"), [(0, 1, 0, 0), (0, 1, 6.5, -4.0), (1, 1.02, 3, 1), (-2, 1, 9, 2)]
)
def test_known_motion_is_found(wall, degrees, zoom, x, y):
    truth = similarity(degrees, zoom, x, y)
    before, now = view(wall, similarity(0, 1, 0, 0)), view(wall, truth)
    found = estimate_motion(before, now, scale=4.0, ignore_boxes_xyxy=NO_BOXES)
    assert found is not None
    corners = np.array([[0.0, 0, 1], [320, 0, 1], [0, 180, 1], [320, 180, 1]])
    full = np.array([4.0, 4, 1])
    np.testing.assert_allclose((corners * full) @ found.T, 4 * corners @ truth.T, atol=1.5)


def test_objects_are_not_the_camera(wall):
    before = view(wall, similarity(0, 1, 0, 0))
    now = before.copy()
    now[20:170, 20:220] = view(wall, similarity(0, 1, 7, 0))[20:170, 20:220]
    boxes = np.array([[20, 20, 220, 170]], np.float32) * 4
    found = estimate_motion(before, now, scale=4.0, ignore_boxes_xyxy=boxes)
    assert found is not None
    np.testing.assert_allclose(found, [[1, 0, 0], [0, 1, 0]], atol=0.3)  # px of the full frame
    fooled = estimate_motion(before, now, scale=4.0, ignore_boxes_xyxy=NO_BOXES)
    assert fooled is None or abs(fooled[0, 2]) > 20


def test_equal_planes_give_equal_motion(wall):
    pair = view(wall, similarity(0, 1, 0, 0)), view(wall, similarity(1, 1, 4, 4))
    first = estimate_motion(*pair, scale=1.0, ignore_boxes_xyxy=NO_BOXES)
    again = estimate_motion(*pair, scale=1.0, ignore_boxes_xyxy=NO_BOXES)
    assert first is not None
    np.testing.assert_array_equal(first, again)


def test_nothing_to_follow_is_unknown(wall):
    grey = np.full((180, 320), 90, np.uint8)
    textured = view(wall, similarity(0, 1, 0, 0))
    assert estimate_motion(grey, grey, scale=1.0, ignore_boxes_xyxy=NO_BOXES) is None
    assert estimate_motion(textured, grey, scale=1.0, ignore_boxes_xyxy=NO_BOXES) is None
    everything = np.array([[-5, -5, 400, 400]], np.float32)
    assert estimate_motion(textured, textured, scale=1.0, ignore_boxes_xyxy=everything) is None


def test_a_cut_is_unknown(wall):
    before = view(wall, similarity(0, 1, 0, 0))
    other = np.random.default_rng(8).integers(0, 256, (60, 100)).astype(np.uint8)
    after = cv2.resize(other, (320, 180), interpolation=cv2.INTER_CUBIC)
    assert estimate_motion(before, after, scale=1.0, ignore_boxes_xyxy=NO_BOXES) is None


def test_planes_of_other_sizes_are_refused(wall):
    small = view(wall, similarity(0, 1, 0, 0))
    with pytest.raises(ValueError, match=r"must be \(180, 320\) like the plane before, got \(90,"):
        estimate_motion(small, small[::2], scale=1.0, ignore_boxes_xyxy=NO_BOXES)
