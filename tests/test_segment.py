"""The segment stage on a small network of random weights: when it looks, and what it says of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from annotators import Driven, at_ms, grey, save_segmenter

from engines.cascade.classes import CAMVID_CLASSES
from engines.cascade.labelcode import decode
from engines.cascade.runtime import Segmenter
from engines.errors import ModelError
from streamer.config import Config
from streamer.configfile import build_config
from streamer.errors import ConfigError
from streamer.messages import LabelMap
from streamer.stages.segment import Segment

USUAL, OTHER = 230, 20
"""Brightness of two pictures with different labels in many places."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_segmenter(tmp_path_factory.mktemp("segmenter"))


@pytest.fixture(scope="module")
def labels(model: Path) -> dict[int, np.ndarray]:
    """What the network sees in each picture."""
    segmenter = Segmenter.load(model, out_stride=2)
    seen = {}
    for picture in (USUAL, OTHER):
        planes = grey(picture, 128, 96)
        seen[picture] = segmenter.segment((planes.y, planes.u, planes.v)).labels.copy()
    segmenter.close()
    return seen


@pytest.fixture(scope="module")
def rule(labels: dict[int, np.ndarray]) -> dict[str, object]:
    """A surface that is there in the first picture, and hidden in the other."""
    gone = labels[USUAL][labels[USUAL] != labels[OTHER]]
    surface = int(np.bincount(gone).argmax())
    hidden = float((labels[OTHER][labels[USUAL] == surface] != surface).mean())
    assert hidden > 0.5
    return {"surface": CAMVID_CLASSES[surface], "share": hidden / 2, "for_s": 0.5}


def config_of(model: Path | str, view: object = None, **segmenter: object) -> Config:
    camera = {"source": "x", "out": "y.mp4", **(view or {})}  # type: ignore[dict-item]
    return build_config(
        {"cameras": {"gate": camera}, "segmenter": {"model": str(model), **segmenter}}
    )


def play(segment: Driven, first_ms: int, until_ms: int, picture: int, *, epoch: int = 1) -> None:
    """25 frames a second of one picture."""
    planes = grey(picture, 128, 96)
    for ms in range(first_ms, until_ms, 40):
        segment.frame(at_ms(ms, epoch=epoch), planes)


def maps(segment: Driven) -> list[LabelMap]:
    return [each.label_map for each in segment.annotations() if each.label_map]


def test_five_maps_a_second_and_a_word_of_each_other_frame(model: Path) -> None:
    with Driven(Segment, config_of(model, per_s=5), name="segment") as segment:
        play(segment, 0, 2000, USUAL)
        told = segment.annotations("encode.gate")
        assert [each.info.pts for each in told] == list(range(0, 2000, 40))
        looked = [each.info.pts for each in told if each.label_map]
        assert looked == [each.info.pts for each in segment.annotations()]
        assert looked == list(range(0, 2000, 200))
        assert {each.skipped for each in told if not each.label_map} == {"cadence"}


def test_track_is_told_of_frames_in_their_order(model: Path) -> None:
    """Also where some come at once, and those that nobody wants could be answered sooner."""
    everywhere = [[0, 0], [1, 0], [1, 1], [0, 1]]
    view = {"zones": {"yard": {"polygon": everywhere, "on": ["road"]}}}
    with Driven(Segment, config_of(model, view, per_s=5), name="segment") as segment:
        settle, segment.settle = segment.settle, lambda: None
        play(segment, 0, 480, USUAL)
        settle()
        told = segment.annotations("track.gate")
        assert [each.info.pts for each in told] == list(range(0, 480, 40))
        assert [each.info.pts for each in told if each.label_map] == [0, 200, 400]


def test_a_map_covers_the_picture_and_says_how_much_is_what(
    model: Path, labels: dict[int, np.ndarray]
) -> None:
    with Driven(Segment, config_of(model, carry_over=False), name="segment") as segment:
        play(segment, 0, 40, USUAL)
        (found,) = maps(segment)
    assert found.class_names == CAMVID_CLASSES
    assert (found.height, found.width) == labels[USUAL].shape
    assert np.array_equal(decode(found.coded, classes=11), labels[USUAL])
    counts = np.bincount(labels[USUAL].reshape(-1), minlength=11)
    assert found.shares == pytest.approx(counts / counts.sum(), abs=1e-4)


def test_labels_are_carried_but_never_into_another_epoch(model: Path) -> None:
    with Driven(Segment, config_of(model), name="segment") as segment:
        play(segment, 0, 400, USUAL)
        assert segment.stage.counters["carried_permille"] == 1000
        play(segment, 400, 440, USUAL, epoch=2)
        assert segment.stage.counters["carried_permille"] == 0


def blocked(segment: Driven) -> list[tuple[str, object]]:
    return [(kind, fields.get("reason")) for kind, fields in segment.happenings()]


def test_a_surface_is_blocked_and_seen_again(model: Path, rule: dict[str, object]) -> None:
    config = config_of(model, surfaces={"lane": rule})
    with Driven(Segment, config, name="segment") as segment:
        play(segment, 0, 1000, USUAL)
        play(segment, 1000, 2000, OTHER)
        play(segment, 2000, 4000, USUAL)
        segment.end("decode.gate")
        assert blocked(segment) == [("surface.blocked", None), ("surface.cleared", "seen")]


@pytest.mark.parametrize("what", ["epoch", "end", "death", "death and end"])
def test_what_is_blocked_is_cleared_when_nobody_knows(
    model: Path, rule: dict[str, object], what: str
) -> None:
    config = config_of(model, surfaces={"lane": rule})
    with Driven(Segment, config, name="segment") as segment:
        play(segment, 0, 1000, USUAL)
        play(segment, 1000, 2000, OTHER)
        if "death" in what:
            segment.die()
        if "end" in what:
            segment.end("decode.gate")
        else:
            play(segment, 2000, 2200, OTHER, epoch=2 if what == "epoch" else 1)
        assert blocked(segment) == [("surface.blocked", None), ("surface.cleared", "lost")]
        assert segment.happenings()[-1][1]["share"] is None


def opened(config: Config) -> None:
    with Driven(Segment, config, name="segment"):
        pass


def test_what_does_not_fit_is_one_error(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"segmenter: nowhere: model must be .*check the name or"):
        opened(config_of("nowhere"))
    with pytest.raises(ModelError, match=r"segmenter: .*stage1\.onnx"):
        opened(config_of(tmp_path))
    with pytest.raises(ConfigError, match=r"segmenter\.surfaces\.lane: 'lava' must be a class of"):
        opened(config_of(model, surfaces={"lane": {"surface": "lava"}}))
    everywhere = [[0, 0], [1, 0], [1, 1], [0, 1]]
    view = {"zones": {"yard": {"polygon": everywhere, "on": ["lava"]}}}
    with pytest.raises(ConfigError, match=r"cameras\.gate\.zones\.yard\.on: 'lava' must be a clas"):
        opened(config_of(model, view))


def test_the_shipped_segmenter_fits_the_stage() -> None:
    with Driven(Segment, config_of("cascade"), name="segment") as segment:
        play(segment, 0, 440, USUAL)
        found = maps(segment)
    assert len(found) == 3
    assert {each.class_names for each in found} == {CAMVID_CLASSES}
