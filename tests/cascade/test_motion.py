"""Labels that move along with a picture."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from engines.cascade.motion import Mover

U8 = NDArray[np.uint8]
RIGHT, DOWN = 4, -4


def scene(seed: int = 0) -> tuple[U8, U8]:
    """Luma with structure of some pixels, and labels that follow it: (96, 128) each."""
    random = np.random.default_rng(seed)
    coarse = random.integers(20, 230, (14, 18), np.uint8)
    luma: U8 = cv2.resize(coarse, (128, 96), interpolation=cv2.INTER_CUBIC)
    return luma, (luma > 120).astype(np.uint8)


def shifted(plane: U8, stride: int = 1) -> U8:
    move = np.array([[1, 0, RIGHT / stride], [0, 1, DOWN / stride]], np.float32)
    size = (plane.shape[1], plane.shape[0])
    out: U8 = cv2.warpAffine(
        plane, move, size, flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE
    )
    return out


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_labels_follow_what_moves(stride: int) -> None:
    luma, labels = scene()
    everything = np.ones((6, 8), bool)
    before, wanted = labels[::stride, ::stride], shifted(labels)[::stride, ::stride]
    found = Mover(16).moved(before, stride, luma, shifted(luma), everything)
    inside = (slice(16 // stride, -16 // stride),) * 2
    still = float((before == wanted)[inside].mean())
    assert float((found == wanted)[inside].mean()) > max(0.94, still + 0.1)


def test_other_blocks_keep_their_labels() -> None:
    luma, labels = scene()
    blocks = np.zeros((6, 8), bool)
    blocks[2, 3] = blocks[5, 7] = True
    found = Mover(16).moved(labels, 1, luma, shifted(luma), blocks)
    kept = ~blocks.repeat(16, axis=0).repeat(16, axis=1)
    assert (found[kept] == labels[kept]).all()
    assert (found[32:48, 48:64] == shifted(labels)[32:48, 48:64]).mean() > 0.95
    assert (found[32:48, 48:64] != labels[32:48, 48:64]).any()


def test_a_map_may_end_within_a_block() -> None:
    luma, labels = scene()
    cut = labels[:83:2, :101:2]
    found = Mover(16).moved(cut, 2, luma, shifted(luma), np.ones((6, 8), bool))
    assert found.shape == cut.shape == (42, 51)
    assert found is not cut


def test_a_picture_that_stands_still_keeps_its_labels() -> None:
    luma, labels = scene()
    found = Mover(16).moved(labels, 1, luma, luma, np.ones((6, 8), bool))
    assert (found == labels).all()
