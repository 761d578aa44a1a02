"""Planes become the network's input, scores become labels."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from cascade_tiny import planes

from engines.cascade.picture import Placement, best_labels, changed_blocks, fill_input, place
from engines.detectors.preprocess import to_bgr


@pytest.mark.parametrize(
    ("frame", "placed"),
    [
        ((480, 360), (480, 360)),
        ((1280, 720), (480, 270)),
        ((1080, 1920), (207, 368)),
        ((1, 5000), (1, 368)),
        ((5000, 1), (480, 1)),
        ((3, 2), (480, 320)),
    ],
)
def test_frames_keep_their_proportions(frame: tuple[int, int], placed: tuple[int, int]) -> None:
    assert place(*frame, 480, 368) == Placement(*placed)


def test_what_a_frame_does_not_cover_repeats_its_edge() -> None:
    out = np.zeros((3, 96, 128), np.uint8)
    at = fill_input(*planes(0, 64, 32), out)
    assert at == Placement(128, 64)
    assert (out[:, 64:] == out[:, 63:64]).all()
    tall = fill_input(*planes(0, 32, 64), out)
    assert tall == Placement(48, 96)
    assert (out[:, :, 48:] == out[:, :, 47:48]).all()


def test_other_colour_matrices_are_converted() -> None:
    y, u, v = planes(0)
    given, wanted = np.zeros((3, 96, 128), np.uint8), np.zeros((3, 96, 128), np.uint8)
    fill_input(y, u, v, given, matrix="bt709")
    fill_input(y, u, v, wanted)
    full = [y, *(cv2.resize(plane, (128, 96), interpolation=cv2.INTER_LINEAR) for plane in (u, v))]
    as_seen = np.stack(to_bgr(full, "bt709")).astype(int)
    ours = np.stack(to_bgr(list(given), "bt601")).astype(int)
    unclipped = (as_seen > 3) & (as_seen < 252) & (ours > 3) & (ours < 252)
    assert unclipped.mean() > 0.2
    assert np.abs(ours - as_seen)[unclipped].max() <= 4
    assert (given != wanted).any()


@pytest.mark.parametrize("out_stride", [1, 2, 4])
def test_labels_are_those_of_enlarged_scores(out_stride: int) -> None:
    random = np.random.default_rng(0)
    logits = cv2.GaussianBlur(random.normal(size=(24, 32, 11)).astype(np.float32), (7, 7), 2) * 30
    logits = np.ascontiguousarray(logits.transpose(2, 0, 1))
    at = Placement(117, 91)
    labels = best_labels(logits, at, 4, out_stride)
    size = (30 * 4 // out_stride, 23 * 4 // out_stride)
    plain = np.stack(
        [cv2.resize(np.ascontiguousarray(each[:23, :30]), size) for each in logits]
    ).argmax(axis=0)
    height, width = labels.shape
    assert (height, width) == (-(-91 // out_stride), -(-117 // out_stride))
    assert (labels == plain[:height, :width]).mean() > 0.995


def test_small_changes_are_found_and_noise_is_not() -> None:
    before = np.full((3, 64, 96), 100, np.uint8)
    noise = np.random.default_rng(0).integers(0, 6, before.shape, np.uint8)
    now = before + noise
    assert not changed_blocks(before, now, 16, 6).any()
    now[1, 20:25, 40:46] = 200  # in chroma alone, smaller than a block
    assert list(zip(*np.nonzero(changed_blocks(before, now, 16, 6)), strict=True)) == [(1, 2)]
