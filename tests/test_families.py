"""Families of detectors: recognised by their signature, read with planted boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from engines.base import TensorSpec
from engines.detectors.anchors import fcos_anchors, retina_anchors, ssd_anchors
from engines.detectors.families import FAMILIES, recognise
from engines.detectors.nms import best_of, box_iou, suppress
from engines.detectors.preprocess import fill_input
from engines.detectors.runtime import Detector
from engines.detectors.signature import COCO80, COCO91
from engines.errors import ModelError
from engines.feed import Feed
from engines.feed_graph import add_feed
from engines.zoo import find_model
from streamer.planes import Planes
from streamer.sources.street.street import Street

CELLS = 64 + 16 + 4  # of a 64x64 input at strides 8, 16, 32
CELLS96 = 144 + 36 + 9


def spec(name: str, *shape: int | None, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name, shape, np.dtype(dtype))


@dataclass
class Planted:
    """An engine that says what it is; only what recognition and Detector read of one."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    metadata: dict[str, str] = field(default_factory=dict)
    name, device, version, depth, picture_step = "planted", "cpu", "1", 1, 0


def engine(
    *outputs: TensorSpec, size: int = 64, dtype: str = "float32", **metadata: str
) -> Planted:
    return Planted((spec("images", 1, 3, size, size, dtype=dtype),), outputs, metadata)


def two_stage(**metadata: str) -> Planted:
    return engine(
        spec("boxes", 1, None, 4),
        spec("scores", 1, None),
        spec("labels", 1, None, dtype="int64"),
        spec("masks", 1, None, 28, 28),
        dtype="uint8",
        **metadata,
    )


def detector(of: Planted, operators: Sequence[str] = (), score: float = 0.3) -> Detector:
    return Detector(of, recognise(of, "net.onnx", operators=operators), score=score)


# ----------------------------------------------------------------------------------- recognition


@pytest.mark.parametrize(
    ("family", "of", "operators"),
    [
        ("yolox", engine(spec("output", 1, CELLS, 85)), ["Conv"]),
        ("yolox-decoded", engine(spec("output", 1, CELLS, 85)), ["Conv", "Exp"]),
        ("yolov5", engine(spec("output0", 1, 3 * CELLS, 85)), ["Conv"]),
        ("yolov8", engine(spec("output0", None, 84, CELLS96), size=96), ["Conv"]),
        ("fastestdet", engine(spec("output", 1, 85, 4, 4)), ["Conv"]),
        ("ssdlite320", engine(spec("b", 1, 3234, 4), spec("l", 1, 3234, 91), size=320), ["Conv"]),
        ("ssd300", engine(spec("l", 1, 8732, 91), spec("b", 1, 8732, 4), size=300), ["Conv"]),
        ("retinanet", engine(spec("b", 1, 12276, 4), spec("l", 1, 12276, 91), size=256), ["Conv"]),
        (
            "fcos",
            engine(spec("b", 1, 1364, 4), spec("l", 1, 1364, 91), spec("c", 1, 1364, 1), size=256),
            ["Conv"],
        ),
        ("detr", engine(spec("logits", 1, 100, 92), spec("boxes", 1, 100, 4)), ["Conv"]),
        ("rtdetr", engine(spec("logits", 1, 300, 80), spec("boxes", 1, 300, 4)), ["Conv"]),
        ("maskrcnn", two_stage(), ["Conv"]),
    ],
)
def test_each_family_is_known_by_its_signature(
    family: str, of: Planted, operators: list[str]
) -> None:
    signature = recognise(of, "net.onnx", operators=operators)
    assert signature.family == family
    assert "person" in signature.classes
    assert signature.output.shape[-1] == 4 or len(of.outputs) == 1  # boxes come first


def test_what_could_be_two_is_refused_with_both_and_the_family_settles_it() -> None:
    both = engine(spec("output", 1, CELLS, 85))
    with pytest.raises(ModelError, match=r"could be yolox or yolox-decoded, .*--family yolox"):
        recognise(both, "net.onnx")  # nobody has read the operators
    both.metadata["family"] = "yolox-decoded"
    assert recognise(both, "net.onnx").family == "yolox-decoded"
    square = engine(spec("output", 1, CELLS, CELLS))  # 79 classes in rows, or 80 in columns
    with pytest.raises(ModelError, match="could be yolox or yolov8"):
        recognise(square, "net.onnx", operators=["Conv"])
    queries = engine(spec("logits", 1, 300, 11), spec("boxes", 1, 300, 4))
    with pytest.raises(ModelError, match="could be detr or rtdetr"):
        recognise(queries, "net.onnx", operators=["Conv"])
    queries.metadata |= {"family": "detr", "classes": ",".join("abcdefghij")}
    assert recognise(queries, "net.onnx").classes == tuple("abcdefghij")


def test_what_is_missing_is_said() -> None:
    nameless = engine(spec("output0", 1, 4 + 3, CELLS))
    with pytest.raises(ModelError, match=r"has 3 classes and no names .*--classes NAMES\.txt"):
        recognise(nameless, "net.onnx", operators=["Conv"])
    nameless.metadata["classes"] = "cat,dog"
    with pytest.raises(ModelError, match=r"must be 3 names of classes, .* got 2"):
        recognise(nameless, "net.onnx", operators=["Conv"])
    nameless.metadata["classes"] = "cat,dog,cow"
    assert recognise(nameless, "net.onnx", operators=["Conv"]).classes == ("cat", "dog", "cow")
    exported = engine(spec("output0", 1, 4 + 2, CELLS), names="{0: 'cat', 1: 'dog'}")
    assert recognise(exported, "net.onnx", operators=["Conv"]).classes == ("cat", "dog")
    exported.metadata["names"] = "__import__('os')"
    with pytest.raises(ModelError, match="metadata names must list the classes"):
        recognise(exported, "net.onnx", operators=["Conv"])


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (
            spec("images", 1, 3, None, None),
            "height and width must be fixed, got .*one picture size",
        ),
        (spec("images", 1, 64, 64, 3), "has pictures .x3xHxW of floats or uint8"),
        (spec("images", 1, 3, 64, 64, dtype="int64"), "has pictures .x3xHxW of floats or uint8"),
        (spec("images", 1, 3, 64), "has one input, a batch of pictures"),
    ],
)
def test_inputs_that_are_no_pictures_are_refused(image: TensorSpec, text: str) -> None:
    with pytest.raises(ModelError, match=text):
        recognise(Planted((image,), (spec("output", 1, CELLS, 85),)), "net.onnx")


def test_a_network_of_no_family_lists_all() -> None:
    with pytest.raises(ModelError) as caught:
        recognise(engine(spec("output", 1, 1000)), "net.onnx", operators=["Conv"])
    assert all(f"{name} (" in str(caught.value) for name in FAMILIES)


def test_two_stage_families_do_not_compile_to_tensorrt() -> None:
    assert {name for name, f in FAMILIES.items() if not f.compiles} == {"fasterrcnn", "maskrcnn"}


# -------------------------------------------------------------------------------- planted boxes


def test_yolov5_rows() -> None:
    output = np.zeros((1, 3 * CELLS, 85), np.float32)
    output[0, 7, :5] = (20, 12, 10, 20, 0.9)
    output[0, 7, 5 + 2] = 0.8
    output[0, 200, :5] = (40, 40, 8, 8, 0.2)  # too doubtful
    output[0, 200, 5] = 1
    found = detector(engine(spec("output0", 1, 3 * CELLS, 85))).decode({"output0": output}, 128, 96)
    np.testing.assert_allclose(found.boxes_xyxy, [[30, 4, 50, 44]])
    np.testing.assert_allclose(found.scores, [0.72], rtol=1e-6)
    assert [COCO80[c] for c in found.classes] == ["car"]


def test_yolov8_columns_of_two_pictures() -> None:
    output = np.zeros((2, 84, CELLS96), np.float32)
    output[0, :4, 3] = (20, 12, 10, 20)
    output[0, 4, 3] = 0.7
    output[1, :4, 80] = (32, 32, 16, 16)
    output[1, 4 + 5, 80] = 0.6
    output[1, :4, 81] = (33, 32, 16, 16)  # the same bus, less sure
    output[1, 4 + 5, 81] = 0.5
    of = engine(spec("output0", None, 84, CELLS96))
    of.inputs = (spec("images", None, 3, 96, 96),)
    one, two = detector(of).decode_batch({"output0": output}, [(96, 96), (192, 192)])
    np.testing.assert_allclose(one.boxes_xyxy, [[15, 2, 25, 22]])
    np.testing.assert_allclose(two.boxes_xyxy, [[48, 48, 80, 80]])
    assert [COCO80[c] for c in (*one.classes, *two.classes)] == ["person", "bus"]


def test_decoded_yolox_is_read_in_pixels() -> None:
    output = np.zeros((1, CELLS, 85), np.float32)
    output[0, 3, :6] = (20, 12, 10, 20, 1, 0.5)
    of = engine(spec("output", 1, CELLS, 85))
    found = detector(of, ["Exp"]).decode({"output": output}, 64, 64)
    np.testing.assert_allclose(found.boxes_xyxy, [[15, 2, 25, 22]])


def test_detr_takes_the_share_that_is_no_object_into_account() -> None:
    logits = np.full((1, 100, 92), -9, np.float32)
    logits[..., 91] = 9  # nothing anywhere
    logits[0, 5, 91], logits[0, 5, 1] = 0, 2  # a person, by e^2 / (e^2 + 1)
    boxes = np.tile(np.array([0.5, 0.25, 0.2, 0.1], np.float32), (1, 100, 1))
    of = engine(spec("logits", 1, 100, 92), spec("boxes", 1, 100, 4))
    found = detector(of).decode({"logits": logits, "boxes": boxes}, 100, 200)
    np.testing.assert_allclose(found.boxes_xyxy, [[40, 40, 60, 60]], rtol=1e-5)
    np.testing.assert_allclose(found.scores, [np.exp(2) / (np.exp(2) + 1)], rtol=1e-2)
    assert [COCO91[c] for c in found.classes] == ["person"]


def test_transformers_without_a_no_object_class_score_each_class_for_itself() -> None:
    logits = np.full((1, 300, 80), -9, np.float32)
    logits[0, 7, 2] = logits[0, 8, 2] = 1.5  # the same car twice: there is no suppression
    boxes = np.tile(np.array([0.5, 0.5, 0.2, 0.2], np.float32), (1, 300, 1))
    of = engine(spec("logits", 1, 300, 80), spec("boxes", 1, 300, 4))
    found = detector(of).decode({"logits": logits, "boxes": boxes}, 100, 100)
    np.testing.assert_allclose(found.scores, [1 / (1 + np.exp(-1.5))] * 2, rtol=1e-5)
    assert [COCO80[c] for c in found.classes] == ["car", "car"]


def test_masks_stay_with_their_boxes() -> None:
    masks = np.zeros((1, 3, 28, 28), np.float32)
    masks[0, 0, 14:] = masks[0, 2] = 1
    outputs = {
        "boxes": np.array([[[0, 0, 8, 8], [9, 9, 10, 10], [32, 32, 64, 48]]], np.float32),
        "scores": np.array([[0.4, 0.1, 0.9]], np.float32),
        "labels": np.array([[1, 1, 3]]),
        "masks": masks,
    }
    found = detector(two_stage()).decode(outputs, 128, 128)
    np.testing.assert_allclose(found.boxes_xyxy, [[64, 64, 128, 96], [0, 0, 16, 16]])
    assert [COCO91[c] for c in found.classes] == ["car", "person"]
    (whole,), (lower,) = found.outlines
    for outline, box in ((whole, [64, 64, 128, 96]), (lower, [0, 8, 16, 16])):
        extent = [*outline.min(axis=0), *outline.max(axis=0)]
        np.testing.assert_allclose(extent, box, atol=0.3)


def test_labels_beyond_the_classes_are_left_out() -> None:
    outputs = {
        "boxes": np.array([[[0, 0, 8, 8], [8, 8, 16, 16]]], np.float32),
        "scores": np.array([[0.4, 0.9]], np.float32),
        "labels": np.array([[1, 91]]),
        "masks": np.zeros((1, 2, 28, 28), np.float32),
    }
    assert len(detector(two_stage()).decode(outputs, 64, 64)) == 1


def test_half_precision_outputs_are_read() -> None:
    output = np.zeros((1, 84, CELLS96), np.float16)
    output[0, :5, 3] = (20, 12, 10, 20, 0.75)
    of = engine(spec("output0", 1, 84, CELLS96, dtype="float16"), size=96, dtype="float16")
    found = detector(of).decode({"output0": output}, 96, 96)
    np.testing.assert_allclose(found.boxes_xyxy, [[15, 2, 25, 22]])


# ---------------------------------------------------------------------------------- what is fed


def test_pictures_are_normalised_and_padded_as_a_family_wants() -> None:
    signature = recognise(
        engine(spec("logits", 1, 100, 92), spec("boxes", 1, 100, 4)), "net", operators=["Conv"]
    )
    white = np.full((32, 64), 235, np.uint8), *2 * [np.full((16, 32), 128, np.uint8)]
    out = np.empty((3, 64, 64), np.float32)
    fill_input(*white, signature, out)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(out[:, 0, 0], (1 - mean) / std, atol=0.05)
    boxed = recognise(two_stage(), "net", operators=["Conv"])
    inside = np.empty((3, 64, 64), np.uint8)
    fill_input(*white, boxed, inside)
    assert (inside[:, 0, 0] >= 253).all()  # the graph normalises
    assert inside[:, 40, 0].tolist() == [124, 116, 104]


def test_a_graph_that_scales_frames_itself_is_given_the_planes(tmp_path: Path) -> None:
    plain = Detector.load("street", device="onnxruntime:cpu")
    sign = plain.signature
    feed = Feed(
        640, 360, "planes", sign.width, sign.height, sign.colour, sign.letterbox, sign.enlarge,
        padding=(114, 128, 128),
    )  # fmt: skip
    path = tmp_path / "fed.onnx"
    path.write_bytes(add_feed(find_model("street").read_bytes(), feed, "street"))
    fed = Detector.load(path, device="onnxruntime:cpu")
    scene = Street(3, 640, 360)
    planes = Planes.empty(640, 360)
    scene.render(100, planes)
    assert fed.prepare(planes.y, planes.u, planes.v).keys() == {"y", "u", "v"}
    seen, wanted = (each.detect(planes.y, planes.u, planes.v) for each in (fed, plain))
    plain.close()
    fed.close()
    sure = wanted.scores >= 0.3
    assert sure.sum() >= 3
    overlaps = box_iou(wanted.boxes_xyxy[sure], seen.boxes_xyxy)
    assert (overlaps.max(axis=1) > 0.9).all()


# ------------------------------------------------------------------------- anchors, suppression


def test_anchors_are_where_torchvision_has_them() -> None:
    assert ssd_anchors(320).shape == (3234, 4)
    assert ssd_anchors(300).shape == (8732, 4)
    # The first shape of SSDLite: 0.2 of the picture around the first of 20 x 20 cells.
    np.testing.assert_allclose(ssd_anchors(320)[0], [-24, -24, 40, 40], atol=1e-4)
    np.testing.assert_allclose(retina_anchors(64, 64)[0], [-23, -11, 23, 11])
    np.testing.assert_allclose(fcos_anchors(64, 32)[1], [4, -4, 12, 4])


def test_the_best_of_each_group_are_taken() -> None:
    groups = np.array([1, 0, 1, 1, 0])
    scores = np.array([0.1, 0.9, 0.3, 0.3, 0.2], np.float32)
    assert best_of(groups, scores, 2).tolist() == [1, 4, 2, 3]


@pytest.mark.parametrize("seed", range(5))
def test_groups_of_all_sizes_are_suppressed_as_if_each_were_alone(seed: int) -> None:
    random = np.random.default_rng(seed)
    count = 3000
    groups = np.sort(random.integers(0, 12, count) ** 2 // 9)
    low = random.uniform(0, 100, (count, 2))
    boxes = np.hstack([low, low + random.uniform(5, 60, (count, 2))]).astype(np.float32)
    alone = [
        np.flatnonzero(groups == group)[suppress(boxes[groups == group], np.zeros(size, int), 0.5)]
        for group, size in zip(*np.unique(groups, return_counts=True), strict=True)
    ]
    assert suppress(boxes, groups, 0.5).tolist() == sorted(np.concatenate(alone).tolist())
