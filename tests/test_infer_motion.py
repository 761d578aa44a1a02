"""The camera's motion as infer estimates it: on rendered scenes whose camera is known to move."""

from __future__ import annotations

from fractions import Fraction
from functools import cache

import cv2
import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from samples import info_of

from streamer.inference.motion import CameraMotion, small_luma
from streamer.messages import FrameInfo
from streamer.planes import Planes
from streamer.sources.street import Street

NOBODY = np.empty((0, 4), np.float32)
SIZE = (640, 360)


@cache
def scene(camera: str, frames: int = 6) -> list[tuple[Planes, NDArray[np.float32]]]:
    """Pictures, each with the boxes of all that moves in it."""
    street = Street(3, *SIZE, fps=Fraction(10), camera=camera)
    pictures = []
    for index in range(frames):
        planes = Planes.empty(*SIZE)
        street.render(index, planes)
        boxes = [sighting.box_xyxy for sighting in street.truth(index).sightings]
        pictures.append((planes, np.array(boxes, np.float32).reshape(-1, 4)))
    return pictures


def info(seq: int, **changes: object) -> FrameInfo:
    plain = info_of(seq, width=SIZE[0], height=SIZE[1])
    return msgspec.structs.replace(plain, **changes)


def follow(motion: CameraMotion, camera: str) -> list[bytes]:
    return [
        motion.into(info(seq), *small_luma(planes.y), boxes)
        for seq, (planes, boxes) in enumerate(scene(camera))
    ]


def test_a_pan_is_followed_from_the_second_frame_on():
    first, *others = follow(CameraMotion(always=False), "pan")
    assert first == b""
    shifts = [np.frombuffer(each, np.float32).reshape(2, 3)[0, 2] for each in others]
    assert len(shifts) == 5
    assert np.ptp(shifts) < 3
    assert all(abs(shift) > 1 for shift in shifts), "the scenery moves sideways"


def test_of_a_camera_that_shivers_every_third_frame_is_looked_at():
    random = np.random.default_rng(1)
    scenery = random.integers(0, 255, (46, 81), np.uint8).repeat(4, 0).repeat(4, 1)
    motion = CameraMotion(always=False)
    for seq in range(9):
        at = 0.08 * seq  # small pixels in all
        shift = np.array([[1, 0, at], [0, 1, 0]], np.float32)
        small = cv2.warpAffine(scenery, shift, (324, 184))[2:182, 2:322]
        told = motion.into(info(seq), small, 2, NOBODY)
        if seq in (1, 4, 7):
            moved = np.frombuffer(told, np.float32).reshape(2, 3)[0, 2]
            assert moved == pytest.approx(2 * 0.08 * (1 if seq == 1 else 3), abs=0.1)
        else:
            assert told == b""


def test_a_still_camera_is_not_estimated_unless_asked():
    assert follow(CameraMotion(always=False), "static") == [b""] * 6
    always = follow(CameraMotion(always=True), "static")
    assert always[0] == b""
    for each in always[1:]:
        affine = np.frombuffer(each, np.float32).reshape(2, 3)
        assert np.abs(affine - np.eye(2, 3)).max() < 1


@pytest.mark.parametrize(
    "changes",
    [{"epoch": 2}, {"discontinuity": True}, {"pts": 30}],
    ids=["new epoch", "clock jumped", "more than a second away"],
)
def test_nothing_is_compared_across_a_gap(changes):
    motion, pictures = CameraMotion(always=True), scene("pan")
    motion.into(info(0), *small_luma(pictures[0][0].y), NOBODY)
    assert motion.into(info(1, **changes), *small_luma(pictures[1][0].y), NOBODY) == b""
    after = {"epoch": changes.get("epoch", 1), "pts": changes.get("pts", 1) + 1}
    assert motion.into(info(2, **after), *small_luma(pictures[2][0].y), NOBODY) != b""


def test_another_size_is_another_view():
    motion = CameraMotion(always=True)
    small, scale = small_luma(scene("pan")[0][0].y)
    motion.into(info(0), small, scale, NOBODY)
    assert motion.into(info(1, width=1280), small[:, :160], scale, NOBODY) == b""


def test_what_moves_in_front_of_a_still_camera_is_no_motion_of_it():
    random = np.random.default_rng(0)
    scenery = random.integers(60, 200, (45, 80), np.uint8).repeat(4, 0).repeat(4, 1)
    passed = scenery.copy()
    passed[20:160, 20:240] = np.roll(scenery[20:160, 20:240], 7, axis=1)
    box = np.array([[16, 16, 248, 164]], np.float32) * 2
    for boxes, told in ((box, False), (NOBODY, True)):
        motion = CameraMotion(always=False)
        motion.into(info(0), scenery, 2, boxes)
        assert bool(motion.into(info(1), passed, 2, boxes)) is told


def test_small_luma_is_a_copy_of_about_320_pixels_across():
    for (width, height), (small_shape, scale) in {
        (1920, 1080): ((180, 320), 6),
        (1280, 720): ((180, 320), 4),
        (320, 240): ((240, 320), 1),
        (34, 18): ((18, 34), 1),
    }.items():
        y = np.full((height, width), 77, np.uint8)
        small, found = small_luma(y)
        y[:] = 0
        assert (small.shape, found) == (small_shape, scale)
        assert (small == 77).all()
