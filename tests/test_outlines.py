"""Instance masks: from the network's grid to polygons in messages, on pictures and in events."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from infer_stage import Driven, boxes_of
from media import write_video
from pipeline import streamer
from pycocotools import mask as coco
from samples import info_of, tracks_of
from tiny_networks import VERIFIER, save_masks, save_means

from engines.detectors.outlines import MOST_PARTS, MOST_POINTS, outlines
from streamer.config import CameraConfig
from streamer.events import Numbering, decode_event, encode_event
from streamer.frame_events import FrameEvents
from streamer.messages import MAX_MESSAGE_BYTES, Detections, Item, Tracks, decode_edge, encode
from streamer.outlines import of_objects, of_tracks
from streamer.overlay import PALETTE, colour_of
from streamer.overlay.colours import yuv_from_rgb
from streamer.overlay.fill import fill
from streamer.painter import Painter
from streamer.planes import Planes

# pycocotools 2.0 speaks to numpy 2 as to numpy 1; what it gives is right.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

GRID = 28
SIZE = (320, 240)
SCALE = 128 / 320  # of a letterboxed picture of that size in the planted network


def disc(radius: float = 10.0, grid: int = GRID) -> np.ndarray:
    y, x = np.mgrid[:grid, :grid] - (grid - 1) / 2
    return (1 / (1 + np.exp(np.hypot(x, y) - radius))).astype(np.float32)


def left_half() -> np.ndarray:
    mask = np.zeros((GRID, GRID), np.float32)
    mask[:, : GRID // 2] = 1
    return mask


def inside(parts: tuple[np.ndarray, ...], size: tuple[int, int] = SIZE) -> np.ndarray:
    """Pixels within polygons, as COCO's own tool sees them."""
    rings = [np.asarray(part, np.float64).ravel().tolist() for part in parts]
    coded = coco.merge(coco.frPyObjects(rings, size[1], size[0]))
    return coco.decode(coded).astype(bool)


def pasted(mask: np.ndarray, box: np.ndarray, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Pixels of a frame whose place in the grid has a chance of one half or more."""
    x, y = (np.arange(length) + 0.5 for length in size)
    columns = (x - box[0]) / (box[2] - box[0]) * mask.shape[1] - 0.5
    rows = (y - box[1]) / (box[3] - box[1]) * mask.shape[0] - 0.5
    where = np.meshgrid(columns.astype(np.float32), rows.astype(np.float32))
    chance = cv2.remap(mask, *where, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    return chance >= 0.5


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    return np.count_nonzero(one & other) / np.count_nonzero(one | other)


# ------------------------------------------------------------------------------------- tracing


@pytest.mark.parametrize("mask", [disc(), disc(6.0, grid=14), left_half()], ids=["a", "b", "c"])
@pytest.mark.parametrize(
    "box",
    [(40, 30, 240, 200), (100, 100, 140, 190), (-60, 20, 120, 300), (250, 100, 400, 180)],
    ids=["large", "small", "left", "right"],
)
def test_an_outline_encloses_what_the_mask_says(mask: np.ndarray, box: tuple[float, ...]) -> None:
    corners = np.array(box, np.float32)
    (parts,) = outlines(mask[None], corners[None], SIZE)
    assert len(parts) == 1
    assert 4 <= len(parts[0]) <= MOST_POINTS
    assert parts[0].dtype == np.float32
    assert parts[0].min() >= 0
    assert (parts[0].max(axis=0) <= SIZE).all()
    assert overlap(inside(parts), pasted(mask, corners)) > 0.93


def test_parts_come_by_size_and_specks_and_holes_are_left_out() -> None:
    mask = np.zeros((GRID, GRID), np.float32)
    mask[1:7, 1:7] = 1  # a part
    mask[12:26, 2:26] = 1  # a larger one
    mask[16:20, 10:16] = 0  # a hole in it
    mask[2, 20] = 0.6  # a speck
    (parts,) = outlines(mask[None], np.array([[0, 0, 280, 224]], np.float32), SIZE)
    assert [bool(part[:, 1].min() > 90) for part in parts] == [True, False]
    filled = mask.copy()
    filled[16:20, 10:16], filled[2, 20] = 1, 0
    wanted = pasted(filled, np.array([0, 0, 280, 224]))
    assert overlap(inside(parts), wanted) > 0.97


def test_nothing_likely_has_no_parts_and_noise_stays_small() -> None:
    random = np.random.default_rng(0).random((2, GRID, GRID), np.float32)
    found = outlines(
        np.concatenate([np.full((1, GRID, GRID), 0.4, np.float32), random]),
        np.array([[10, 10, 200, 200]] * 3, np.float32),
        SIZE,
    )
    assert found[0] == ()
    for parts in found[1:]:
        assert 1 <= len(parts) <= MOST_PARTS
        assert max(map(len, parts)) <= MOST_POINTS
    assert outlines(random[:0], np.empty((0, 4), np.float32), SIZE) == ()


# ------------------------------------------------------------------------- through the pipeline


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """Sees a disc, and to the right of it something that fills the left half of its box."""
    boxes = np.array([[8, 12, 48, 72], [60, 20, 120, 90]], np.float32)
    return save_masks(tmp_path / "masks.onnx", boxes, np.stack([disc(), left_half()]))


def lit() -> Planes:
    planes = Planes.empty(*SIZE)
    planes.fill(90)
    planes.y[:, SIZE[0] // 2 :] = 200  # brighter where the second object is
    return planes


def found_by(planted: Path, **detector: object) -> Detections:
    with Driven(detector={"model": str(planted), **detector}) as infer:
        infer.frame("c0", 0, lit())
        return infer.settle(1)["c0"][0]


def test_infer_sends_outlines_in_pixels_of_the_frame(planted: Path) -> None:
    found = found_by(planted)
    first, second = of_objects(found)
    boxes = boxes_of(found)
    assert np.allclose(boxes[0], np.array([8, 12, 48, 72]) / SCALE)
    assert overlap(inside(first), pasted(disc(), boxes[0])) > 0.95
    assert overlap(inside(second), pasted(left_half(), boxes[1])) > 0.95
    assert len(encode(Item(1, found))) < 2000
    assert decode_edge(encode(Item(1, found))) == Item(1, found)


def test_a_detector_without_masks_sends_none() -> None:
    with Driven() as infer:
        infer.frame("c0", 0, lit())
        (found,) = infer.settle(1)["c0"]
    assert found.outlines == ()
    assert tracks_of(info_of(0), {1: (0, 0, 9, 9)}).rows == b""


def test_an_outline_leaves_with_its_box(planted: Path, tmp_path: Path) -> None:
    both = found_by(planted)
    verifier = save_means(tmp_path / "bright.onnx", VERIFIER, gain=0.2)
    kept = found_by(planted, then=[{"model": str(verifier), "least": 0.5}])
    assert np.array_equal(boxes_of(kept), boxes_of(both)[1:])  # the bright one
    assert kept.outlines == both.outlines[1:]


def tracked(outlined: bool = True, *, seen: bool = True) -> Tracks:
    """Track 7 is the second of two detections, or of none in this frame."""
    message = tracks_of(info_of(3, width=320, height=240), {7: (100.0, 50.0, 200.0, 150.0)})
    if not outlined:
        return message
    boxes = np.array([(0, 0, 50, 50), (100, 50, 200, 150)], np.float32)
    shapes = outlines(np.stack([left_half(), disc()]), boxes, SIZE)
    found = msgspec.structs.replace(
        message.detections,
        boxes=boxes.tobytes(),
        scores=np.array([0.2, 0.9], np.float32).tobytes(),
        classes=np.zeros(2, np.int16).tobytes(),
        outlines=tuple(tuple(part.tobytes() for part in parts) for parts in shapes),
    )
    row = 1 if seen else -1
    rows = np.array([row], np.int32).tobytes()
    return msgspec.structs.replace(message, detections=found, rows=rows)


def test_a_track_has_the_outline_of_its_detection() -> None:
    ((part,),) = of_tracks(tracked())
    assert overlap(inside((part,)), pasted(disc(), np.array([100, 50, 200, 150]))) > 0.95
    assert list(of_tracks(tracked(seen=False))) == [()]
    assert list(of_tracks(tracked(outlined=False))) == [()]


def test_a_crowd_of_outlines_is_small_enough() -> None:
    part = np.zeros((MOST_POINTS, 2), np.float32).tobytes()
    crowd = msgspec.structs.replace(tracked().detections, outlines=(((part,) * MOST_PARTS),) * 300)
    assert len(encode(Item(1, crowd))) < MAX_MESSAGE_BYTES / 4


# ------------------------------------------------------------------------------------ on pictures


def copy(planes: Planes) -> Planes:
    other = Planes.empty(planes.width, planes.height)
    other.copy_from(planes)
    return other


@pytest.mark.parametrize("size", [(320, 240), (321, 241)])
def test_a_tint_stays_within_its_outline(size: tuple[int, int]) -> None:
    planes = Planes.empty(*size)
    planes.fill(60)
    square = np.array([(40, 40), (80, 40), (80, 100), (40, 100)], np.float32)
    fill(planes, [square, square + np.float32([200, 0])], (160, 100, 200), 0.5)
    assert planes.y[42:98, 42:78].tolist() == np.full((56, 36), 85).tolist()  # 60 + 100 / 4
    assert (planes.u[22:48, 122:138] == 114).all()
    assert (planes.v[22:48, 22:38] == 164).all()
    for plane, by in ((planes.y, 1), (planes.u, 2), (planes.v, 2)):
        wide = plane.copy()
        for left in (40, 240):
            wide[40 // by : 100 // by + 1, left // by : (left + 40) // by + 1] = plane[0, 0]
        assert (wide == plane[0, 0]).all()


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [np.array([(400, 10), (500, 10), (450, 90)], np.float32)],
        [np.array([(-90, -90), (-10, -90), (-50, -9)], np.float32)],
        [np.array([(1e9, 10), (50, 10), (50, 90)], np.float32)],
        [np.array([(np.nan, 10), (50, 10), (50, 90)], np.float32)],
    ],
    ids=["none", "right", "above", "far", "nan"],
)
def test_what_cannot_be_seen_is_not_drawn(parts: list[np.ndarray]) -> None:
    planes = Planes.empty(*SIZE)
    planes.fill(60)
    before = copy(planes)
    fill(planes, parts, (160, 100, 200), 0.5)
    assert np.array_equal(planes.y, before.y)
    assert np.array_equal(planes.u, before.u)


def painted(message: Tracks, seq: int = 3) -> Planes:
    painter = Painter("gate", CameraConfig(source="x"))
    painter.learn(message.info, message, {})
    planes = Planes.empty(*SIZE)
    planes.fill(60)
    info = info_of(seq, width=SIZE[0], height=SIZE[1])
    if seq != 3:
        painter.learn(info, None, {})
    painter.paint(planes, info)
    return planes


def test_an_object_is_tinted_in_the_colour_of_its_track_and_its_box_is_not() -> None:
    with_mask, without = painted(tracked()), painted(tracked(outlined=False))
    y, x = np.nonzero(with_mask.v != without.v)
    shape = pasted(disc(), np.array([100, 50, 200, 150]))[::2, ::2]
    tinted = np.zeros_like(shape)
    tinted[y, x] = True
    assert overlap(tinted, shape) > 0.9
    luma, _, red = yuv_from_rgb(PALETTE, "bt601")[colour_of(7)].tolist()
    assert with_mask.v[50, 75] == round(128 + 0.45 * (red - 128))
    assert with_mask.y[100, 150] == pytest.approx(60 + 0.225 * (luma - 60), abs=1)


def test_a_tint_moves_along_where_nothing_new_is_known() -> None:
    velocities = np.array([[100, 0]], np.float32).tobytes()
    message = msgspec.structs.replace(tracked(), velocities=velocities)
    bare = msgspec.structs.replace(message, rows=b"")
    places = []
    for seq in (3, 13):  # 0.4 s, 40 px
        tinted = painted(message, seq).v != painted(bare, seq).v
        places.append(np.nonzero(tinted)[1].mean())
    assert places[1] - places[0] == pytest.approx(20, abs=1)  # chroma samples


# -------------------------------------------------------------------------------------- in events


def events_of(message: Tracks) -> dict[str, dict[str, object]]:
    maker = FrameEvents(Numbering("run1", "gate", 0), score=0.3, updated_per_s=5)
    made = [*maker.events(message), *maker.end(message.info)]
    for event in made:
        assert decode_event(encode_event(event)) == event
    lines = [json.loads(encode_event(event)) for event in made]
    return {line["type"]: line for line in lines}


def test_events_tell_the_outline_as_coco_does() -> None:
    told = events_of(tracked())
    (seen,) = told["detection"]["objects"]  # the other one scored too little
    ring = seen["outline_px"]
    assert told["track.started"]["outline_px"] == ring
    assert told["track.ended"]["outline_px"] == ring
    coded = coco.merge(coco.frPyObjects(ring, SIZE[1], SIZE[0]))
    shape = pasted(disc(), np.array([100, 50, 200, 150]))
    assert overlap(coco.decode(coded).astype(bool), shape) > 0.95


def test_events_of_detectors_without_masks_are_as_before() -> None:
    told = events_of(tracked(outlined=False))
    assert "outline_px" not in told["detection"]["objects"][0]
    assert "outline_px" not in told["track.started"]
    assert "outline_px" in events_of(tracked())["track.started"]
    assert "outline_px" not in events_of(tracked(seen=False))["track.started"]


def test_a_run_draws_masks_and_tells_of_them(planted: Path, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", frames=12)
    arguments = ("run", clip, "--detector", planted, "--out", tmp_path / "out.mp4")
    done = streamer(*arguments, "--events", tmp_path / "events.jsonl", timeout_s=120)
    assert done.returncode == 0, done.stderr
    lines = map(json.loads, (tmp_path / "events.jsonl").read_text().splitlines())
    told = [line for line in lines if line["type"] in ("detection", "track.started")]
    assert {line["type"] for line in told} == {"detection", "track.started"}
    disc_px = np.pi * (10 / GRID * 100) * (10 / GRID * 150)
    for line in told:
        first = line["objects"][0] if line["type"] == "detection" else line
        area = coco.area(coco.merge(coco.frPyObjects(first["outline_px"], SIZE[1], SIZE[0])))
        assert area > 0.8 * min(disc_px, 150 * 175 / 2)
