"""Appearance: the public network tells people of a real crowd apart."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from onnx import TensorProto
from tiny_networks import save_means

from engines.crops import Piece
from engines.detectors.decode import box_iou
from engines.detectors.pack import decoded
from engines.detectors.runtime import Detector
from engines.errors import ModelError
from engines.reid.free_batch import free_batch
from engines.reid.runtime import Embedder, unit


def test_the_same_person_is_closer_than_another(data_dir):
    embedder = Embedder.load(data_dir / "weights" / "osnet_x0_25_msmt17.onnx", device="cpu")
    detector = Detector.load("street", device="cpu", score=0.6)
    frames = itertools.islice(decoded(data_dir / "video" / "walking_crowd_720p.mp4"), 0, 25, 3)
    people: list[list[int]] = []
    vectors, last = [], np.empty((0, 4), np.float32)
    for planes in frames:
        yuv = (planes.y, planes.u, planes.v)
        found = detector.detect(*yuv)
        boxes = found.boxes_xyxy[found.classes == 0]
        # A box of three frames ago that overlaps well, and no other does, is of the same person.
        overlaps = box_iou(boxes, last)
        now: list[int] = []
        for row in range(len(boxes)):
            same = np.flatnonzero(overlaps[row] > 0.5)
            clear = len(same) == 1 and (overlaps[:, same[0]] > 0.5).sum() == 1
            now.append(people[-1][same[0]] if clear else 1000 * len(people) + row)
        people.append(now)
        last = boxes
        vectors += [
            embedder.network.look([Piece(yuv, boxes[row : row + 1])]) for row in range(len(boxes))
        ]
    detector.close()
    embedder.close()
    looks = unit(np.concatenate(vectors)).astype(np.float32)
    names = np.array([person for frame in people for person in frame])
    when = np.repeat(np.arange(len(people)), [len(frame) for frame in people])
    alike = looks @ looks.T
    same = (names[:, None] == names) & (when[:, None] < when)
    other = (names[:, None] != names) & (when[:, None] == when)
    assert same.sum() > 50
    closer = np.mean(alike[same][:, None] > alike[other][None, :2000])
    assert closer > 0.9


def test_a_batch_of_crops_says_what_single_crops_do(data_dir, tmp_path):
    single, batched = data_dir / "weights" / "osnet_x0_25_msmt17.onnx", tmp_path / "b.onnx"
    assert free_batch(single, batched) < 1e-4
    embedder = Embedder.load(batched, device="cpu")
    assert (embedder.network.batch, embedder.size) == (None, 512)
    embedder.close()


@pytest.mark.parametrize(
    ("size", "kind"), [((8, 12), TensorProto.UINT8), ((8, 12), TensorProto.FLOAT)]
)
def test_what_is_no_network_of_appearance_is_refused(tmp_path, size, kind):
    path = save_means(tmp_path / "m.onnx", {}, size=size, kind=kind)
    with pytest.raises(ModelError, match="must take float32 Nx3xHxW and give NxD with D from 16"):
        Embedder.load(path, device="cpu")


def test_vectors_have_length_one_and_nothing_stays_nothing():
    vectors = unit(np.array([[3, 4], [0, 0]], np.float32))
    assert vectors.dtype == np.float16
    assert vectors == pytest.approx(np.array([[0.6, 0.8], [0, 0]]), abs=1e-3)
