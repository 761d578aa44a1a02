"""Detectors at run time: planes to input, output to boxes, and the public YOLOX as a plain loop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from engines.base import TensorSpec
from engines.detectors.decode import box_iou, suppress
from engines.detectors.preprocess import fill_input, place, to_bgr
from engines.detectors.runtime import Detections, Detector
from engines.detectors.signature import COCO80, Signature, cells
from engines.errors import EngineMismatch, ModelError
from engines.zoo import find_model
from streamer.planes import Planes
from streamer.sources.street.street import Street

PERSON, CAR = COCO80.index("person"), COCO80.index("car")


# ------------------------------------------------------------------ an engine with planted outputs


def yolox_signature(size: int = 64, batch: int | None = None) -> Signature:
    rows = cells(size, size, (8, 16, 32))
    return Signature(
        "yolox",
        "anchorfree",
        TensorSpec("images", (batch, 3, size, size), np.dtype("float32")),
        TensorSpec("output", (batch, rows, 85), np.dtype("float32")),
        COCO80,
        "bgr",
        strides=(8, 16, 32),
        objectness=True,
    )


class PlantedEngine:
    """An engine whose output is given; only what Detector reads of an engine."""

    name, device, version, depth, picture_step = "planted", "cpu", "1", 1, 0

    def __init__(self, signature: Signature, metadata: dict[str, str] | None = None) -> None:
        self.inputs, self.outputs = (signature.input,), (signature.output,)
        self.metadata = metadata or {}


def planted_detector(**options: object) -> Detector:
    signature = yolox_signature()
    return Detector(PlantedEngine(signature), signature, **options)


def plant(
    output: np.ndarray,
    row: int,
    cell: tuple[int, int, int],
    box: tuple[float, ...],
    **scores: float,
) -> None:
    """Write a box (cx, cy, w, h in input pixels) into the row of cell (column, row, stride)."""
    column, line, stride = cell
    cx, cy, w, h = box
    output[row, :4] = (
        cx / stride - column,
        cy / stride - line,
        np.log(w / stride),
        np.log(h / stride),
    )
    output[row, 4] = 1
    for name, score in scores.items():
        output[row, 5 + COCO80.index(name)] = score


def empty_output(batch: int = 1) -> np.ndarray:
    return np.zeros((batch, cells(64, 64, (8, 16, 32)), 85), np.float32)


# --------------------------------------------------------------------------------------- decoding


def test_planted_boxes_come_back_in_source_pixels() -> None:
    output = empty_output()
    plant(output[0], 8 + 2, (2, 1, 8), (20, 12, 10, 20), person=0.9)  # row 1, column 2 of 8x8
    plant(output[0], 64 + 4 * 3 + 1, (1, 3, 16), (25, 50, 30, 12), car=0.6)
    plant(output[0], 64 + 16 + 2, (0, 1, 32), (10, 44, 16, 16), bus=0.05)  # under the threshold
    found = planted_detector().decode({"output": output}, 128, 96)  # 64/128: half size
    np.testing.assert_allclose(found.boxes_xyxy, [[30, 4, 50, 44], [20, 88, 80, 96]], atol=1e-3)
    np.testing.assert_allclose(found.scores, [0.9, 0.6])
    assert found.classes.tolist() == [PERSON, CAR]
    assert (found.boxes_xyxy.dtype, found.scores.dtype, found.classes.dtype) == (
        np.float32,
        np.float32,
        np.int16,
    )


def test_a_batch_is_decoded_by_each_frames_own_size() -> None:
    output = empty_output(2)
    for image in output:
        plant(image, 0, (0, 0, 8), (16, 16, 8, 8), person=0.5)
    one, two = planted_detector().decode_batch({"output": output}, [(64, 64), (640, 320)])
    np.testing.assert_allclose(one.boxes_xyxy, [[12, 12, 20, 20]], atol=1e-4)
    np.testing.assert_allclose(two.boxes_xyxy, [[120, 120, 200, 200]], atol=1e-3)
    with pytest.raises(EngineMismatch, match="sizes must be given for each of 2 frames, got 1"):
        planted_detector().decode_batch({"output": output}, [(64, 64)])


def test_boxes_are_clipped_and_those_in_the_padding_are_dropped() -> None:
    output = empty_output()
    plant(output[0], 0, (0, 0, 8), (0, 0, 20, 20), person=0.9)
    plant(output[0], 1, (1, 0, 8), (30, 60, 10, 6), person=0.8)  # below a 128x64 frame at half size
    found = planted_detector().decode({"output": output}, 128, 64)
    np.testing.assert_allclose(found.boxes_xyxy, [[0, 0, 20, 20]], atol=1e-4)


def test_only_named_classes_are_reported_and_others_suppress_nothing() -> None:
    output = empty_output()
    plant(output[0], 0, (0, 0, 8), (16, 16, 10, 10), person=0.3, car=0.9)
    assert planted_detector().decode({"output": output}, 64, 64).classes.tolist() == [CAR]
    found = planted_detector(only=["person"]).decode({"output": output}, 64, 64)
    assert found.classes.tolist() == [PERSON]
    np.testing.assert_allclose(found.scores, [0.3])


def test_nothing_found_gives_empty_arrays() -> None:
    found = planted_detector().decode({"output": empty_output()}, 64, 64)
    assert len(found) == 0
    assert (found.boxes_xyxy.shape, found.classes.dtype) == ((0, 4), np.int16)


def test_nonsense_sizes_stay_finite() -> None:
    output = empty_output()
    output[0, 3, 2:4] = 1e9
    output[0, 3, 4:6] = 1
    found = planted_detector().decode({"output": output}, 64, 48)
    np.testing.assert_array_equal(found.boxes_xyxy, [[0, 0, 64, 48]])


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match=r"score must be between 0 and 1 .*, got 0 and 0\.45"):
        planted_detector(score=0)
    with pytest.raises(ValueError, match=r"nms_iou in \(0, 1\], got 0\.1 and 1\.5"):
        planted_detector(nms_iou=1.5)
    with pytest.raises(ValueError, match=r"classes must be of person, .*, got persn; drop them"):
        planted_detector(only=["persn", "car"])


# -------------------------------------------------------------------------------------------- NMS


def one_by_one(boxes: np.ndarray, classes: np.ndarray, iou: float) -> list[int]:
    """Suppress as textbooks do: the best box that is left removes what it overlaps."""
    left, kept = list(range(len(boxes))), []
    while left:
        best = left.pop(0)
        kept.append(best)
        overlaps = box_iou(boxes[best : best + 1], boxes)[0]
        left = [i for i in left if classes[i] != classes[best] or overlaps[i] <= iou]
    return kept


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("count", [150, 300], ids=["few", "many"])
def test_suppression_equals_the_plain_loop(count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    low = random.uniform(0, 60, (count, 2))
    boxes = np.hstack([low, low + random.uniform(5, 40, (count, 2))]).astype(np.float32)
    classes = random.integers(0, 2, count).astype(np.int16)
    assert suppress(boxes, classes, 0.45).tolist() == one_by_one(boxes, classes, 0.45)


def test_a_chain_of_overlaps_keeps_every_second_box() -> None:
    left = np.arange(0, 100, 4, dtype=np.float32)  # each overlaps its neighbours by 6/14
    boxes = np.column_stack([left, 0 * left, left + 10, 0 * left + 10])
    classes = np.zeros(len(left), np.int16)
    assert suppress(boxes, classes, 0.4).tolist() == list(range(0, len(left), 2))
    assert len(suppress(boxes, classes, 0.45)) == len(left)


def test_classes_do_not_suppress_each_other_and_ties_go_by_cell() -> None:
    output = empty_output()
    plant(output[0], 5, (5, 0, 8), (30, 30, 20, 20), person=0.5)
    plant(output[0], 9, (1, 1, 8), (31, 30, 20, 20), person=0.5)
    plant(output[0], 17, (1, 2, 8), (30, 31, 20, 20), car=0.5)
    found = planted_detector().decode({"output": output}, 64, 64)
    np.testing.assert_allclose(found.boxes_xyxy[:, :2], [[20, 20], [20, 21]], atol=1e-4)
    assert found.classes.tolist() == [PERSON, CAR]


def test_equal_scores_are_reported_in_the_order_of_cells() -> None:
    output = empty_output()
    for row in range(64):  # one small box in the middle of each cell of stride 8
        column, line = row % 8, row // 8
        box = (column * 8 + 4, line * 8 + 4, 6, 6)
        plant(output[0], row, (column, line, 8), box, car=0.6 if row % 3 else 0.5)
    found = planted_detector().decode({"output": output}, 64, 64)
    order = [row for row in range(64) if row % 3] + [row for row in range(64) if not row % 3]
    expected = [[row % 8 * 8 + 1, row // 8 * 8 + 1] for row in order]
    np.testing.assert_allclose(found.boxes_xyxy[:, :2], expected, atol=1e-3)


def test_overlap_of_boxes() -> None:
    a = np.array([[0, 0, 10, 10], [5, 5, 5, 9]], np.float32)  # the second has no area
    b = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30], [5, 5, 5, 9]], np.float32)
    np.testing.assert_allclose(box_iou(a, b), [[1, 1 / 3, 0, 0], [0, 0, 0, 0]], rtol=1e-6)


# ------------------------------------------------------------------------------------------ input


def i420(bgr: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Convert a picture of even size to dense planes, as a decoder gives them."""
    height, width = bgr.shape[:2]
    flat = cv2.cvtColor(bgr, cv2.COLOR_BGR2YUV_I420).reshape(-1)
    luma, chroma = height * width, height * width // 4
    half = (height // 2, width // 2)
    return (
        flat[:luma].reshape(height, width),
        flat[luma : luma + chroma].reshape(half),
        flat[luma + chroma :].reshape(half),
    )


def test_colours_come_back_in_both_matrices() -> None:
    # Pure red, green, blue, white, black in limited range, by the standards' own tables.
    tables = {
        "bt601": [(81, 90, 240), (145, 54, 34), (41, 240, 110), (235, 128, 128), (16, 128, 128)],
        "bt709": [(63, 102, 240), (173, 42, 26), (32, 240, 118), (235, 128, 128), (16, 128, 128)],
    }
    colours = [(0, 0, 255), (0, 255, 0), (255, 0, 0), (255, 255, 255), (0, 0, 0)]
    for matrix, yuv in tables.items():
        planes = [np.array([row], np.uint8) for row in zip(*yuv, strict=True)]
        bgr = np.stack(to_bgr(planes, matrix), axis=-1)[0].astype(int)
        assert np.abs(bgr - colours).max() <= 2, matrix
    with pytest.raises(
        ValueError, match=r"matrix must be one of \['bt601', 'bt709'\], got 'bt2020'"
    ):
        to_bgr(planes, "bt2020")


@pytest.mark.parametrize(("width", "height"), [(128, 72), (72, 128), (50, 50), (35, 21)])
def test_letterbox_pads_with_grey_below_and_right(width: int, height: int) -> None:
    signature = yolox_signature()
    y = np.full((height, width), 235, np.uint8)
    u = np.full(((height + 1) // 2, (width + 1) // 2), 128, np.uint8)
    out = np.empty((3, 64, 64), np.float32)
    at = fill_input(y, u, u, signature, out)
    assert max(at.width, at.height) == 64
    assert abs(at.width / at.height - width / height) < 0.05
    assert (out[:, : at.height, : at.width] == 255).all()
    assert (out[:, at.height :] == 114).all()
    assert (out[:, :, at.width :] == 114).all()
    assert at == place(width, height, signature)


def test_a_detector_that_does_not_enlarge_takes_small_frames_pixel_by_pixel() -> None:
    signature = replace(yolox_signature(), enlarge=False)
    y = np.random.default_rng(0).integers(16, 235, (30, 40), np.uint8)
    out = np.empty((3, 64, 64), np.float32)
    grey = replace(signature, colour="yuv")
    at = fill_input(y, np.full((15, 20), 90, np.uint8), np.full((15, 20), 200, np.uint8), grey, out)
    assert (at.width, at.height, at.scale_x, at.scale_y) == (40, 30, 1, 1)
    np.testing.assert_array_equal(out[0, :30, :40], y)
    assert (out[1:, :30, :40] == [[[90]], [[200]]]).all()
    assert (out[0, 30:] == 114).all()
    assert (out[0, :, 40:] == 114).all()
    output = empty_output()
    plant(output[0], 0, (0, 0, 8), (16, 16, 8, 8), person=0.5)
    found = Detector(PlantedEngine(signature), signature).decode({"output": output}, 40, 30)
    np.testing.assert_allclose(found.boxes_xyxy, [[12, 12, 20, 20]], atol=1e-4)
    large = yolox_signature()  # frames that are large enough are scaled as ever
    assert place(128, 72, signature) == place(128, 72, large) != place(40, 30, large)


def test_padded_rows_of_a_plane_are_read_right() -> None:
    bgr = np.random.default_rng(0).integers(0, 255, (72, 128, 3), np.uint8)
    dense = i420(bgr)
    strided = [np.pad(plane, ((0, 0), (0, 13)))[:, : plane.shape[1]] for plane in dense]
    detector = planted_detector()
    np.testing.assert_array_equal(
        detector.prepare(*strided)["images"], detector.prepare(*dense)["images"]
    )


def test_a_fixed_batch_is_refused_with_the_number(data_dir: Path) -> None:
    detector = Detector.load(data_dir / "weights" / "yolox_nano_416_coco.onnx", device="cpu")
    planes = i420(np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(EngineMismatch, match="batch must be 1, got 2; send the frames one by one"):
        detector.prepare_batch([planes, planes])
    assert len(detector.detect(*planes)) == 0
    detector.close()


# --------------------------------------------------------------------------- real networks, frames


def frames_of(path: Path, every: int) -> list[np.ndarray]:
    video = cv2.VideoCapture(str(path))
    frames = []
    while True:
        there, frame = video.read()
        if not there:
            return frames[::every]
        frames.append(frame)


def plain_loop(engine: Detector, bgr: np.ndarray) -> Detections:
    """Detect as a plain loop does: letterbox the whole colour frame, then the network."""
    height, width = bgr.shape[:2]
    ratio = min(416 / height, 416 / width)
    canvas = np.full((416, 416, 3), 114, np.uint8)
    small = cv2.resize(bgr, (int(width * ratio), int(height * ratio)))
    canvas[: small.shape[0], : small.shape[1]] = small
    image = np.ascontiguousarray(canvas.transpose(2, 0, 1)[None], np.float32)
    return engine.decode(engine.engine.infer({"images": image}), width, height)


def agreement(found: list[Detections], wanted: list[Detections], score: float) -> float:
    """F1 of found boxes against wanted ones of the same class, at an overlap of 0.5."""
    hits = total = 0
    for a, b in zip(found, wanted, strict=True):
        keep_a, keep_b = a.scores >= score, b.scores >= score
        total += int(keep_a.sum() + keep_b.sum())
        overlap = box_iou(a.boxes_xyxy[keep_a], b.boxes_xyxy[keep_b])
        overlap *= a.classes[keep_a][:, None] == b.classes[keep_b]
        for row in overlap:
            best = int(row.argmax()) if len(row) else 0
            if len(row) and row[best] >= 0.5:
                hits += 1
                overlap[:, best] = 0
    return 2 * hits / total


@pytest.mark.parametrize(
    ("clip", "every"), [("walking_crowd_720p.mp4", 23), ("highway_320x240.avi", 50)]
)
def test_boxes_equal_those_of_a_plain_loop(data_dir: Path, clip: str, every: int) -> None:
    detector = Detector.load(data_dir / "weights" / "yolox_nano_416_coco.onnx", device="cpu")
    frames = frames_of(data_dir / "video" / clip, every)
    assert len(frames) >= 15
    from_planes = [detector.detect(*i420(frame)) for frame in frames]
    from_colour = [plain_loop(detector, frame) for frame in frames]
    assert sum(int((found.scores >= 0.3).sum()) for found in from_colour) >= 40
    assert agreement(from_planes, from_colour, 0.3) >= 0.97
    detector.close()


def test_fastestdet_sees_what_yolox_sees(data_dir: Path) -> None:
    frames = frames_of(data_dir / "video" / "walking_crowd_720p.mp4", 60)
    found = []
    for name in ("FastestDet_352_coco.onnx", "yolox_nano_416_coco.onnx"):
        detector = Detector.load(data_dir / "weights" / name, device="cpu", only=["person"])
        found.append([detector.detect(*i420(frame)) for frame in frames])
        detector.close()
    assert detector.classes == COCO80
    assert agreement(*found, 0.5) >= 0.6  # another network; a wrong layout gives almost 0


def test_a_network_that_is_no_detector_is_refused_with_what_was_seen(data_dir: Path) -> None:
    path = data_dir / "weights" / "osnet_x0_25_msmt17.onnx"
    with pytest.raises(
        ModelError, match=r"must be a known detector, got .*256x128.*known are: .*YOLOX"
    ):
        Detector.load(path)


def test_an_unknown_name_lists_the_shipped_ones() -> None:
    with pytest.raises(ModelError, match=r"steet: model must be one of street, .* or an ONNX file"):
        Detector.load("steet")


# ------------------------------------------------------------------------------ the shipped network


def test_the_shipped_detector_is_small_and_says_what_it_is() -> None:
    detector = Detector.load("street")
    assert find_model("street").stat().st_size <= 4_000_000
    assert detector.classes == ("person", "bicycle", "car", "motorcycle", "bus", "truck")
    assert (detector.signature.width, detector.signature.height) == (448, 288)
    assert detector.max_batch is None
    assert not detector.signature.enlarge
    assert detector.engine.metadata["licence"] == "Apache-2.0"
    detector.close()


@pytest.mark.parametrize(
    ("sizes", "filled"),
    [
        ([(1280, 720)], (256, 448)),
        ([(640, 480)], (288, 416)),
        ([(320, 240)], (256, 352)),
        ([(176, 144)], (160, 192)),
        ([(1280, 720), (640, 480)], (288, 448)),
    ],
)
def test_an_input_is_no_larger_than_frames_fill(
    sizes: list[tuple[int, int]], filled: tuple[int, int]
) -> None:
    street = Street(3)
    planes = Planes.empty(street.width, street.height)
    street.render(200, planes)
    frames = [
        tuple(
            cv2.resize(plane, (width // part, height // part), interpolation=cv2.INTER_AREA)
            for plane, part in ((planes.y, 1), (planes.u, 2), (planes.v, 2))
        )
        for width, height in sizes
    ]
    small, whole = (
        Detector.load("street", device=f"{library}:cpu", score=score)
        for library, score in (("openvino", 0.3), ("onnxruntime", 0.5))
    )
    arrays, padded = small.prepare_batch(frames), whole.prepare_batch(frames)
    assert arrays["planes"].shape == (len(sizes), 3, *filled)
    assert padded["planes"].shape == (len(sizes), 3, 288, 448)
    found = small.decode_batch(small.engine.infer(arrays), sizes)
    wanted = whole.decode_batch(whole.engine.infer(padded), sizes)
    for one, other in zip(found, wanted, strict=True):
        assert len(other) >= 2
        assert (box_iou(other.boxes_xyxy, one.boxes_xyxy).max(axis=1) > 0.8).all()


def test_pictures_of_a_size_that_a_network_lacks_are_refused() -> None:
    detector = Detector.load("street", device="openvino:cpu")
    for size in ((250, 448), (320, 448), (0, 448)):
        with pytest.raises(EngineMismatch, match=r"planes must have shape \?x3x288x448"):
            detector.engine.infer({"planes": np.zeros((1, 3, *size), np.uint8)})


@pytest.mark.parametrize(
    ("clip", "name", "every"),
    [("walking_crowd_720p.mp4", "person", 8), ("highway_320x240.avi", "car", 15)],
)
def test_the_shipped_detector_agrees_with_a_public_one(
    data_dir: Path, clip: str, name: str, every: int
) -> None:
    frames = frames_of(data_dir / "video" / clip, 1)
    frames = frames[len(frames) * 3 // 4 :: every]  # none of these was trained on
    found = []
    teacher = data_dir / "weights" / "yolox_nano_416_coco.onnx"
    for path, score in (("street", 0.4), (teacher, 0.5)):
        detector = Detector.load(path, only=[name], score=score)
        seen = [detector.detect(*i420(frame)) for frame in frames]
        # One class alone is asked for, so its index, which differs, can be left out.
        found.append([replace(s, classes=np.zeros_like(s.classes)) for s in seen])
        detector.close()
    assert sum(len(detections) for detections in found[1]) >= 40
    assert agreement(*found, 0.0) >= 0.7


def test_the_shipped_detector_finds_the_actors_of_a_rendered_street() -> None:
    detector = Detector.load("street", score=0.4)
    street = Street(7)
    planes = Planes.empty(street.width, street.height)
    found = wanted = 0
    for frame in range(100, 600, 100):
        street.render(frame, planes)
        seen = detector.detect(planes.y, planes.u, planes.v)
        for actor in street.truth(frame).sightings:
            if actor.visibility >= 0.5:
                box = np.array([actor.box_xyxy], np.float32)
                mine = seen.boxes_xyxy[seen.classes == detector.classes.index(actor.name)]
                wanted += 1
                found += len(mine) > 0 and bool(box_iou(box, mine).max() >= 0.5)
    detector.close()
    assert wanted >= 30
    assert found / wanted >= 0.6
