"""The infer stage on real engines: order, batches, second looks, skips, motion and its errors."""

from __future__ import annotations

import time
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from infer_stage import Driven, boxes_of, scores_of
from tiny_networks import VERIFIER, save_means

from engines.classifiers.runtime import Classifier
from engines.crops import Piece
from engines.detectors.runtime import Detections as Boxes
from engines.detectors.runtime import Detector
from engines.errors import EngineFailed, ModelError
from streamer.errors import ConfigError
from streamer.messages import EndOfStream, PeerDown
from streamer.planes import Planes
from streamer.sources.street import Street

SIZE = (640, 360)
CAMERA = "decode.c0"


@cache
def picture(index: int) -> Planes:
    planes = Planes.empty(*SIZE)
    Street(3, *SIZE).render(100 + 5 * index, planes)
    return planes


@cache
def detected(index: int) -> Boxes:
    """What the detector finds when it is called alone."""
    detector = Detector.load("street", device="cpu", batch=1, score=0.1)
    planes = picture(index)
    found = detector.detect(planes.y, planes.u, planes.v)
    detector.close()
    assert len(found) >= 3
    return found


@pytest.fixture
def verifier(tmp_path: Path) -> Path:
    """Believes in persons the more, the brighter they are; knows nothing of bicycles."""
    return save_means(tmp_path / "bright.onnx", VERIFIER)


def test_each_camera_gets_its_own_results_in_order_and_then_its_end():
    with Driven(cameras=3) as infer:
        for index in range(4):
            for camera in ("c0", "c1", "c2")[: 3 if index < 2 else 1]:
                infer.frame(camera, index, picture((index + int(camera[1])) % 4))
        infer.end("c1")
        results = infer.settle(4 + 2 + 2 + 1)
        assert isinstance(infer.sent["c1"][-1], EndOfStream)
        assert not infer.finished()
    for camera, found in results.items():
        assert [each.info.seq for each in found] == list(range(len(found)))
        for each in found:
            alone = detected((each.info.seq + int(camera[1])) % 4)
            assert each.boxes == alone.boxes_xyxy.tobytes()
            assert each.scores == alone.scores.tobytes()
            assert each.classes == alone.classes.tobytes()
            assert not each.skipped
    assert sorted(infer.given_back)[:4] == [(CAMERA, number) for number in range(1, 5)]


@pytest.mark.parametrize("live", [False, True], ids=["fixed batch", "free batch"])
def test_a_batch_finds_what_single_frames_do(live):
    with Driven(cameras=4, live=live, detector={"batch": 4, "streams": 1, "age_s": 10.0}) as infer:
        for seq in range(2):
            for camera in range(4):
                infer.frame(f"c{camera}", seq, picture((seq + camera) % 4))
        results = infer.settle(8)
    assert infer.counters["frames"] == 8
    calls = {n: infer.counters[f"calls.{n}"] for n in (1, 2, 3, 4)}
    assert sum(n * count for n, count in calls.items()) == 8
    assert calls[4] >= 1, calls
    for camera, found in results.items():
        for seq, each in enumerate(found):
            alone = detected((seq + int(camera[1])) % 4)
            # A batch of fixed length says the same whatever else is in it; a free one nearly.
            close = 0.01 if live else 0
            assert np.abs(boxes_of(each) - alone.boxes_xyxy).max() <= close


def test_rejected_boxes_leave_and_others_have_both_opinions(verifier):
    settings = {"then": [{"model": str(verifier), "least": 0.3}]}
    with Driven(detector=settings) as infer:
        for index in range(3):
            infer.frame("c0", index, picture(index))
        results = infer.settle(3)["c0"]
        counters = dict(infer.counters)
    classifier = Classifier.load(verifier, device="cpu")
    rejected = 0
    for index, result in enumerate(results):
        alone, planes = detected(index), picture(index)
        columns = classifier.columns(result.class_names)[alone.classes]
        judged = columns >= 0
        piece = Piece((planes.y, planes.u, planes.v), alone.boxes_xyxy[judged])
        scores = alone.scores.copy()
        scores[judged] = classifier.second_opinion(
            scores[judged], classifier.network.look([piece]), columns[judged]
        )
        stays = ~judged | (scores >= 0.3)
        rejected += int((~stays).sum())
        order = np.argsort(-scores, kind="stable")
        order = order[stays[order]]
        assert boxes_of(result) == pytest.approx(alone.boxes_xyxy[order])
        assert scores_of(result) == pytest.approx(scores[order], abs=1e-5)
    assert counters["rejected"] == rejected > 0
    assert counters["crops.bright"] == sum(
        int((classifier.columns(results[0].class_names)[detected(i).classes] >= 0).sum())
        for i in range(3)
    )
    classifier.close()


def test_crops_of_all_cameras_share_calls(verifier):
    settings = {"batch": 4, "streams": 1, "then": [{"model": str(verifier)}]}
    with Driven(cameras=4, detector=settings) as infer:
        for camera in range(4):
            infer.frame(f"c{camera}", 0, picture(camera))
        infer.settle(4)
    assert infer.counters["crop_calls.bright"] < infer.counters["crops.bright"] / 4


def test_sure_boxes_and_those_beyond_the_budget_are_not_looked_at(verifier):
    alone = detected(0)
    sure = float(np.median(alone.scores))
    settings = {"then": [{"model": str(verifier), "sure": sure, "crops": 1, "least": 0.999999}]}
    with Driven(detector=settings) as infer:
        infer.frame("c0", 0, picture(0))
        (result,) = infer.settle(1)["c0"]
    assert infer.counters["crops.bright"] == 1
    assert len(boxes_of(result)) == len(alone) - 1
    kept = alone.scores >= sure
    assert scores_of(result)[: kept.sum()] == pytest.approx(alone.scores[kept])


def test_labels_are_told_of_the_classes_that_are_asked_for(tmp_path):
    path = save_means(
        tmp_path / "hue.onnx", VERIFIER | {"kind": "classes", "names": "dark,blue,red"}, gain=9
    )
    settings = {"then": [{"model": str(path), "classes": ["car"]}, {"model": str(path)}]}
    with Driven(detector=settings) as infer:
        infer.frame("c0", 0, picture(0))
        (result,) = infer.settle(1)["c0"]
    classes = np.frombuffer(result.classes, np.int16)
    assert len(result.labels) == len(classes)
    for label, index in zip(result.labels, classes.tolist(), strict=True):
        words = label.split()
        assert len(words) in ((1, 2) if result.class_names[index] == "car" else (0, 1))
        assert set(words) <= {"dark", "blue", "red"}
    assert any(len(label.split()) == 2 for label in result.labels)


def test_people_that_score_enough_have_an_appearance(data_dir):
    weights = data_dir / "weights" / "osnet_x0_25_msmt17.onnx"
    tracker = {"reid": str(weights), "reid_crops": 2}
    with Driven(detector={"score": 0.35}, tracker=tracker) as infer:
        infer.frame("c0", 0, picture(0))
        (result,) = infer.settle(1)["c0"]
    vectors = np.frombuffer(result.embeddings, np.float16).reshape(-1, 512).astype(np.float32)
    classes = np.frombuffer(result.classes, np.int16)
    people = (classes == result.class_names.index("person")) & (scores_of(result) >= 0.35)
    expected = np.flatnonzero(people)[:2]
    lengths = np.linalg.norm(vectors, axis=1)
    assert len(vectors) == len(classes)
    assert len(expected) > 0
    assert np.flatnonzero(lengths).tolist() == expected.tolist()
    assert lengths[expected] == pytest.approx(1, abs=1e-2)


def test_a_live_frame_that_is_too_old_is_skipped_and_told():
    with Driven(live=True, detector={"age_s": 5.0, "streams": 1}) as infer:
        infer.frame("c0", 0, picture(0))
        infer.frame("c0", 1, picture(1), receive_ns=time.monotonic_ns() - 6_000_000_000)
        infer.frame("c0", 2, picture(2))
        results = infer.settle(3)["c0"]
    assert [each.skipped for each in results] == ["", "too old", ""]
    assert results[1].boxes == b""
    assert infer.dropped["c0"] == {"infer_stale": 1}
    assert infer.counters["frames"] == 2


def test_a_frame_whose_pixels_are_gone_is_skipped():
    with Driven() as infer:
        infer.frame("c0", 0, Planes.empty(34, 18), width=640, height=360)
        (result,) = infer.settle(1)["c0"]
    assert "came with 918 bytes of pixels; dropped" in result.skipped


def test_a_frame_that_is_delivered_again_is_given_back():
    with Driven() as infer:
        for _ in range(2):
            infer.frame("c0", 0, picture(0))
        infer.settle(1)
    assert infer.counters["frames"] == 1


def test_a_camera_that_died_has_ended():
    with Driven(cameras=2) as infer:
        infer.frame("c0", 0, picture(0))
        for camera in ("c0", "c1"):
            infer.on_peer_down(PeerDown(f"decode.{camera}", 0, final=True))
        infer.settle(3)
        assert isinstance(infer.sent["c0"][-1], EndOfStream)
        assert infer.finished()


@pytest.mark.parametrize(
    ("tracker", "moves"),
    [
        ({"motion": "auto", "name": "default"}, True),
        ({"motion": "auto", "name": "sort"}, False),
        ({"motion": "auto", "name": "sort", "camera_motion": True}, True),
        ({"motion": "off"}, False),
        ({"motion": "on", "name": "sort"}, True),
    ],
)
def test_motion_goes_with_the_detections_where_the_tracker_uses_it(tracker, moves):
    with Driven(tracker=tracker) as infer:
        for seq in range(3):
            infer.frame("c0", seq, pan(seq))
        first, *others = infer.settle(3)["c0"]
    assert first.motion == b""
    assert [bool(each.motion) for each in others] == [moves] * 2
    if moves:
        shift = np.frombuffer(others[0].motion, np.float32).reshape(2, 3)[:, 2]
        assert 0.5 < np.hypot(*shift) < 20


@cache
def pan(seq: int) -> Planes:
    planes = Planes.empty(*SIZE)
    Street(3, *SIZE, fps=Fraction(10), camera="pan").render(seq, planes)
    return planes


def refuse(error: type[Exception], match: str, **sections: object) -> None:
    with pytest.raises(error, match=match), Driven(**sections):  # type: ignore[arg-type]
        pass


def test_what_does_not_fit_is_refused_before_the_first_frame(tmp_path, verifier, data_dir):
    then = {"model": str(verifier)}
    refuse(ModelError, "model must be one of", detector={"then": [{"model": "nowhere"}]})
    refuse(
        ConfigError,
        "classes must be of the detector's person, .* got zebra; drop them",
        detector={"then": [then | {"classes": ["zebra"]}]},
    )
    stranger = save_means(tmp_path / "s.onnx", VERIFIER | {"accepts": "cat,dog,zebra"})
    refuse(
        ConfigError, "use one that was made for this", detector={"then": [{"model": str(stranger)}]}
    )
    refuse(ModelError, "network of appearance must take float32", tracker={"reid": str(verifier)})
    refuse(
        ConfigError,
        "tracker.reid_classes: must be of the detector's",
        tracker={"reid": str(verifier), "reid_classes": ("zebra",)},
    )
    yolox = str(data_dir / "weights" / "yolox_nano_416_coco.onnx")
    refuse(
        ConfigError,
        "detector.batch: .* takes 1 pictures a call, got 4; leave the key out",
        detector={"model": yolox, "batch": 4},
        cameras=4,
    )


def test_an_engine_that_breaks_takes_the_stage_with_it(verifier, monkeypatch):
    with Driven(detector={"then": [{"model": str(verifier)}]}) as infer:
        engine = infer._refinement._steps[0].network.engine
        monkeypatch.setattr(
            engine, "start", lambda _arrays, done: done(EngineFailed("the device is lost"))
        )
        infer.frame("c0", 0, picture(0))
        with pytest.raises(EngineFailed, match="the device is lost"):
            infer.settle(1)
