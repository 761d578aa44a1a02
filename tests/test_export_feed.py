"""Scaling and colour inside the graph: equal to the numpy way, for any detector and frame size."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from engines.base import TensorSpec
from engines.detectors.decode import box_iou
from engines.detectors.preprocess import fill_input
from engines.detectors.runtime import Detector
from engines.detectors.signature import Signature
from engines.errors import EngineMismatch, ModelError
from engines.feed import Feed, read_feed
from engines.feed_graph import add_feed, main
from engines.load import load_engine
from engines.onnxfile import read_metadata
from engines.onnxgraph import read_graph
from engines.precision import lower
from engines.tensorrt.checks import check_graph
from engines.tensorrt.release import Release
from engines.zoo import find_model

Frame = tuple[np.ndarray, np.ndarray, np.ndarray]
Colour = Literal["bgr", "rgb", "yuv"]

PLANE_TOLERANCE = 0.77
"""Levels of 0..255: OpenCV scales bytes with whole numbers and drops their fractions."""
COLOUR_TOLERANCE = 3.0
"""The same after conversion, which multiplies chroma by up to 2 and is rounded once more."""
EXACT_TOLERANCE = 1e-3
"""Levels, against OpenCV on floats."""


def smooth_frame(width: int, height: int, seed: int = 0) -> Frame:
    """A picture with gradients and edges; limited range."""
    random = np.random.default_rng(seed)
    planes = []
    for rows, columns in ((height, width), *[((height + 1) // 2, (width + 1) // 2)] * 2):
        small = random.integers(16, 236, (7, 9), np.uint8)
        planes.append(cv2.resize(small, (columns, rows), interpolation=cv2.INTER_CUBIC))
    return planes[0], planes[1], planes[2]


def identity(width: int, height: int, *, uint8: bool = False, batch: int = 0) -> bytes:
    """A network that gives its picture back as float32."""
    shape = [batch or "batch", 3, height, width]
    graph = helper.make_graph(
        [helper.make_node("Cast", ["image"], ["out"], to=TensorProto.FLOAT)],
        "identity",
        [
            helper.make_tensor_value_info(
                "image", TensorProto.UINT8 if uint8 else TensorProto.FLOAT, shape
            )
        ],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"classes": "person"})
    return bytes(model.SerializeToString())


def run(model: bytes, path: Path, arrays: dict[str, np.ndarray]) -> np.ndarray:
    path.write_bytes(model)
    engine = load_engine(path, device="onnxruntime:cpu")
    result = engine.infer(arrays)["out"]
    engine.close()
    return np.asarray(result)


def reference(frame: Frame, feed: Feed) -> np.ndarray:
    """What the runtime's numpy way makes of a frame."""
    spec = TensorSpec("x", (1, 3, feed.net_height, feed.net_width), np.dtype("float32"))
    signature = Signature(
        "test", "anchorfree", spec, spec, ("a",), feed.colour,
        letterbox=feed.letterbox, enlarge=feed.enlarge,
    )  # fmt: skip
    out = np.zeros((3, feed.net_height, feed.net_width), np.float32)
    at = fill_input(*frame, signature, out, matrix=feed.matrix)
    assert (at.width, at.height) == feed.fitted
    return out


def feed_for(colour: Colour, **changes: object) -> Feed:
    padding = (114, 128, 128) if colour == "yuv" else (114, 114, 114)
    feed = Feed(150, 94, "planes", 96, 64, colour, letterbox=True, padding=padding)
    return dataclasses.replace(feed, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("colour", get_args(Colour))
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"letterbox": False},
        {"matrix": "bt709"},
        {"width": 151, "height": 93},  # odd
        {"width": 40, "height": 30},  # enlarged
        {"width": 40, "height": 30, "enlarge": False},
        {"width": 60, "height": 150},  # padded at the right
        {"width": 96, "height": 64},  # luma is left as it is
    ],
    ids=str,
)
def test_planes_in_the_graph_equal_the_numpy_way(
    colour: Colour, changes: dict[str, object], tmp_path: Path
) -> None:
    feed = feed_for(colour, **changes)
    model = add_feed(identity(96, 64), feed, "net.onnx")
    frames = [smooth_frame(feed.width, feed.height, seed) for seed in (0, 1)]
    got = run(model, tmp_path / "fed.onnx", feed.arrays(frames))
    tolerance = PLANE_TOLERANCE if colour == "yuv" else COLOUR_TOLERANCE
    for picture, frame in zip(got, frames, strict=True):
        wanted = reference(frame, feed)
        np.testing.assert_allclose(picture, wanted, atol=tolerance)
        assert np.abs(picture - wanted).mean() < 0.4 * tolerance
        width, height = feed.fitted
        if colour == "yuv":
            exact = [cv2.resize(plane.astype(np.float32), feed.fitted) for plane in frame]
            np.testing.assert_allclose(picture[:, :height, :width], exact, atol=EXACT_TOLERANCE)
        np.testing.assert_allclose(picture[:, height:], wanted[:, height:], atol=1e-3)
        np.testing.assert_allclose(picture[:, :, width:], wanted[:, :, width:], atol=1e-3)


@pytest.mark.parametrize("colour", get_args(Colour))
def test_bgr_pictures_equal_the_numpy_way(colour: Colour, tmp_path: Path) -> None:
    feed = feed_for(colour, layout="bgr")
    small = np.random.default_rng(3).integers(0, 256, (6, 8, 3), np.uint8)
    picture = cv2.resize(small, (feed.width, feed.height), interpolation=cv2.INTER_CUBIC)
    model = add_feed(identity(96, 64), feed, "net.onnx")
    got = run(model, tmp_path / "fed.onnx", {"bgr": picture[None]})[0]
    width, height = feed.fitted
    scaled = cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)
    if colour == "rgb":
        scaled = scaled[:, :, ::-1]
    if colour == "yuv":  # limited range, as cameras have it
        whole = cv2.cvtColor(scaled, cv2.COLOR_BGR2YUV_I420)
        np.testing.assert_allclose(got[0, :height, :width], whole[:height], atol=COLOUR_TOLERANCE)
    else:
        wanted = scaled.transpose(2, 0, 1)
        np.testing.assert_allclose(got[:, :height, :width], wanted, atol=PLANE_TOLERANCE)
    padding = np.array(feed.padding)[:, None, None]
    np.testing.assert_allclose(got[:, height:], np.broadcast_to(padding, got[:, height:].shape))


def test_normalisation_is_folded_in(tmp_path: Path) -> None:
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    plain = feed_for("rgb")
    scale, offset = tuple(1 / 255 / deviation), tuple(-mean / deviation)
    feed = feed_for("rgb", scale=scale, offset=offset)
    arrays = feed.arrays([smooth_frame(150, 94)])
    net = identity(96, 64)
    levels = run(add_feed(net, plain, "n"), tmp_path / "a.onnx", arrays)[0]
    got = run(add_feed(net, feed, "n"), tmp_path / "b.onnx", arrays)[0]
    wanted = (levels.transpose(1, 2, 0) / 255 - mean) / deviation
    np.testing.assert_allclose(got.transpose(1, 2, 0), wanted, atol=1e-4)


@pytest.mark.parametrize("width", range(90, 190, 7))
def test_no_size_is_rounded_off_by_one(width: int, tmp_path: Path) -> None:
    feed = feed_for("yuv", width=width, height=width * 9 // 16)
    model = add_feed(identity(96, 64, batch=1), feed, "n")  # the checker infers sizes
    shapes = onnx.shape_inference.infer_shapes(onnx.load_from_string(model), strict_mode=True)
    sizes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in shapes.graph.value_info
    }
    (joined,) = [sizes[node.output[0]] for node in shapes.graph.node if node.op_type == "Concat"]
    assert joined == [1, 3, *feed.fitted[::-1]]


@pytest.mark.parametrize("colour", get_args(Colour))
@pytest.mark.parametrize("layout", ["planes", "bgr"])
def test_tensorrt_8_6_documents_all_of_it(colour: Colour, layout: str, tmp_path: Path) -> None:
    model = add_feed(identity(96, 64), feed_for(colour, layout=layout), "net.onnx")
    for graph in (model, lower(model, "fp16", "net.onnx")):
        facts = read_graph(graph, "net.onnx")
        check_graph(facts, Release.parse("8.6.0"), "net.onnx")
        assert all(spec.dtype == np.uint8 for spec in facts.inputs)


@pytest.mark.parametrize("device", ["onnxruntime:cpu", "openvino:cpu"])
def test_the_shipped_detector_sees_the_same(device: str, tmp_path: Path, data_dir: Path) -> None:
    capture = cv2.VideoCapture(str(data_dir / "video" / "walking_crowd_720p.mp4"))
    read, picture = capture.read()
    assert read
    whole = cv2.cvtColor(picture, cv2.COLOR_BGR2YUV_I420)
    height, width = picture.shape[:2]
    u, v = whole[height:].reshape(2, height // 2, width // 2)
    frame = whole[:height], u, v
    detector = Detector.load("street", device="onnxruntime:cpu", score=0.3)
    feed = Feed(
        width, height, "planes", detector.signature.width, detector.signature.height, "yuv",
        letterbox=True, padding=(114, 128, 128),
    )  # fmt: skip
    street = find_model("street").read_bytes()
    path = tmp_path / "fed.onnx"
    path.write_bytes(add_feed(street, feed, "street"))
    assert read_feed(read_metadata(path), "fed") == feed
    engine = load_engine(path, device=device)
    assert engine.picture_step == 0  # frames have the one size of the feed
    wanted = detector.detect(*frame)
    got = detector.decode(engine.infer(feed.arrays([frame])), width, height)
    sure = wanted.scores > 0.35  # none of them falls below the threshold of 0.3
    assert sure.sum() >= 5
    overlaps = box_iou(wanted.boxes_xyxy[sure], got.boxes_xyxy)
    same = overlaps.argmax(axis=1)
    assert overlaps.max(axis=1).min() > 0.95
    np.testing.assert_array_equal(got.classes[same], wanted.classes[sure])
    np.testing.assert_allclose(got.scores[same], wanted.scores[sure], atol=0.02)
    engine.close()
    detector.close()


def test_a_public_detector_is_rewritten_by_command_and_still_known(
    tmp_path: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = data_dir / "weights" / "FastestDet_352_coco.onnx"
    out = tmp_path / "fed.onnx"
    main([str(weights), str(out), "--size", "320x180"])
    assert capsys.readouterr().out == f"{out}: takes planes of 320x180 pixels\n"
    plain, fed = (Detector.load(path, device="onnxruntime:cpu") for path in (weights, out))
    frame = smooth_frame(320, 180)
    assert set(fed.prepare(*frame)) == {"y", "u", "v"}
    assert fed.signature.family == plain.signature.family
    outputs = [
        detector.engine.infer(detector.prepare(*frame))[plain.signature.output.name]
        for detector in (fed, plain)
    ]
    assert np.abs(outputs[0] - outputs[1]).mean() < 0.02 * np.abs(outputs[1]).max()
    plain.close()
    fed.close()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["street", "--size", "1280"], "--size must be WIDTHxHEIGHT, got '1280'"),
        (["street", "--size", "1x1"], "at least 2 pixels wide and high"),
        (["nobody", "--size", "64x64"], "nobody"),
    ],
)
def test_wrong_words_of_the_command(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([arguments[0], str(tmp_path / "out.onnx"), *arguments[1:]])
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_one_frame_is_not_copied_and_wrong_sizes_are_refused() -> None:
    feed = feed_for("yuv")
    frame = smooth_frame(150, 94)
    arrays = feed.arrays([frame])
    for name, plane in zip("yuv", frame, strict=True):
        assert np.shares_memory(arrays[name], plane)
    assert feed.arrays([frame, frame])["u"].shape == (2, 47, 75)
    with pytest.raises(EngineMismatch, match=r"planes must have .* got .*; put scaling for this"):
        feed.arrays([smooth_frame(152, 94)])


def test_networks_that_cannot_be_fed(tmp_path: Path) -> None:
    feed = feed_for("yuv")
    with pytest.raises(ModelError, match=r"one input \?x3x64x96 of .*, got image \['\?', 3, 32, 9"):
        add_feed(identity(96, 32), feed, "net.onnx")
    old = onnx.load_from_string(identity(96, 64))
    old.opset_import[0].version = 9
    with pytest.raises(ModelError, match="opset must be at least 11, got 9; export the network"):
        add_feed(old.SerializeToString(), feed, "net.onnx")
    with pytest.raises(ValueError, match="at least 2 pixels wide and high"):
        feed_for("yuv", width=1)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"width": 3}', "null"])
def test_metadata_of_nonsense(text: str) -> None:
    with pytest.raises(ModelError, match=r"m\.onnx: metadata 'feed' must say how to feed"):
        read_feed({"feed": text}, "m.onnx")
    assert read_feed({}, "m.onnx") is None
    feed = feed_for("rgb")
    assert read_feed({"feed": feed.to_metadata()}, "m.onnx") == feed
