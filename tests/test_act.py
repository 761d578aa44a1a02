"""The act stage on a network whose answer is known: one action is one event, whatever happens."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from annotators import BRIGHT, DARK, Driven, at_ms, grey, save_brightness
from samples import tracks_of

from engines.errors import ModelError
from streamer.config import Config
from streamer.configfile import build_config
from streamer.errors import ConfigError
from streamer.graph import build_graph
from streamer.messages import Annotation, Tracks
from streamer.painter import Painter
from streamer.planes import Planes
from streamer.stages.act import Act

LEFT, RIGHT = (2.0, 2.0, 14.0, 16.0), (20.0, 2.0, 32.0, 16.0)


@pytest.fixture(scope="module")
def scene_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_brightness(tmp_path_factory.mktemp("act") / "scene.onnx")


@pytest.fixture(scope="module")
def person_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_brightness(tmp_path_factory.mktemp("act") / "person.onnx", scope="track")


def config_of(model: Path | str, *, cameras: int = 1, **actions: object) -> Config:
    names = ["gate", "yard"][:cameras]
    return build_config(
        {
            "cameras": {name: {"source": name, "out": f"{name}.mp4"} for name in names},
            "actions": {"model": str(model), "min_s": 0.25, **actions},
        }
    )


def play(act: Driven, until_ms: int, bright: tuple[int, int], *, first_ms: int = 0) -> None:
    """25 frames a second, bright for a while."""
    for ms in range(first_ms, until_ms, 40):
        act.frame(at_ms(ms), grey(BRIGHT if bright[0] <= ms < bright[1] else DARK))


def test_one_action_is_one_event(scene_model: Path) -> None:
    with Driven(Act, config_of(scene_model), name="act") as act:
        play(act, 8000, (2000, 5000))
        act.end("decode.gate")
        (started, begin), (ended, end) = act.happenings()
    assert (started, ended) == ("action.started", "action.ended")
    assert begin["class"] == end["class"] == "wild"
    assert begin["track_id"] is end["track_id"] is None
    assert begin["start_s"] == end["start_s"]
    assert 2.0 <= begin["start_s"] <= 2.5  # half a window of brightness, at 8 samples a second
    assert 5.0 <= end["end_s"] <= 5.5
    assert end["score"] > 0.9


def test_the_event_comes_with_the_frame_that_makes_sure(scene_model: Path) -> None:
    with Driven(Act, config_of(scene_model), name="act") as act:
        play(act, 4000, (2000, 4000))
        frames = [each.info.pts_s for each in act.annotations() if each.happenings]
    assert len(frames) == 1
    assert 2.25 <= frames[0] <= 3.0


def test_the_caption_is_there_while_it_goes_on(scene_model: Path) -> None:
    with Driven(Act, config_of(scene_model), name="act") as act:
        play(act, 8000, (2000, 5000))
        shown = [float(a.info.pts_s) for a in act.annotations() if a.captions == ((0, "wild"),)]
        assert all(a.captions in ((), ((0, "wild"),)) for a in act.annotations())
    assert 2.25 <= shown[0] <= 3.0
    assert 5.25 <= shown[-1] <= 6.0
    assert len(shown) == pytest.approx(8 * (shown[-1] - shown[0]), abs=2)


def test_all_other_frames_are_told_as_skipped_to_who_waits(scene_model: Path) -> None:
    with Driven(Act, config_of(scene_model), name="act") as act:
        play(act, 2000, (0, 0))
        seen = [each.info.pts for each in act.annotations("encode.gate")]
        looked = [each.info.pts for each in act.annotations("encode.gate") if not each.skipped]
        assert seen == list(range(0, 2000, 40))
        assert [each.info.pts for each in act.annotations()] == looked
        assert len(looked) == pytest.approx(16, abs=1)
        assert len(act.given_back) == 50


def test_a_flash_is_no_action(scene_model: Path) -> None:
    with Driven(Act, config_of(scene_model, min_s=0.5), name="act") as act:
        play(act, 4000, (2000, 2120))
        assert act.happenings() == []


def test_an_action_ends_with_its_stream(scene_model: Path) -> None:
    with Driven(Act, config_of(scene_model), name="act") as act:
        play(act, 4000, (1000, 4000))
        act.end("decode.gate")
        assert act.stage.finished()
        kinds = [kind for kind, _ in act.happenings()]
    assert kinds == ["action.started", "action.ended"]


@pytest.mark.parametrize("jump", ["clock", "epoch", "size", "gap"])
def test_an_action_ends_where_the_picture_jumps(scene_model: Path, jump: str) -> None:
    with Driven(Act, config_of(scene_model), name="act") as act:
        play(act, 3000, (1000, 3000))
        ms = 3040 + (2000 if jump == "gap" else 0)
        info = at_ms(ms, epoch=1 + (jump in ("epoch", "size")), jump=jump == "clock")
        act.frame(info, grey(BRIGHT, 64, 48) if jump == "size" else grey(BRIGHT))
        (_, begin), (kind, end) = act.happenings()
    assert kind == "action.ended"
    assert begin["start_s"] < end["end_s"] <= 3.0
    assert act.annotations()[-1].captions == ()


def test_a_jump_that_could_not_be_looked_at_counts_later(scene_model: Path) -> None:
    with Driven(Act, config_of(scene_model), name="act", live=True) as act:
        play(act, 3000, (1000, 3000))
        act.frame(at_ms(3040, jump=True), grey(BRIGHT), old_s=2.0)
        assert act.annotations("encode.gate")[-1].skipped == "too old"
        assert act.stage.dropped["gate"] == {"act_stale": 1}
        play(act, 3400, (0, 9000), first_ms=3080)
        assert [kind for kind, _ in act.happenings()] == ["action.started", "action.ended"]


def test_a_successor_ends_what_was_begun(scene_model: Path) -> None:
    with Driven(Act, config_of(scene_model), name="act") as act:
        play(act, 3000, (1000, 3000))
        act.die()
        play(act, 3200, (0, 9000), first_ms=2600)  # handed out again
        play(act, 6000, (0, 9000), first_ms=3200)
        act.end("decode.gate")
        told = act.happenings()
        kinds = [kind for kind, _ in told]
        last = [each.info.pts for each in act.annotations() if each.happenings]
    assert kinds == ["action.started", "action.ended"] * 2
    assert told[1][1] == {
        "class": "wild", "score": None, "track_id": None, "start_s": told[0][1]["start_s"],
        "end_s": told[1][1]["end_s"],
    }  # fmt: skip
    assert 2.8 <= told[1][1]["end_s"] <= 3.0
    assert last[1] >= 2960  # not with a frame that was told of before


def test_what_was_begun_ends_though_the_stream_ends_first(scene_model: Path) -> None:
    with Driven(Act, config_of(scene_model), name="act") as act:
        play(act, 3000, (1000, 3000))
        act.die()
        act.end("decode.gate")
        assert [kind for kind, _ in act.happenings()] == ["action.started", "action.ended"]


def two_people(left: int, right: int) -> Planes:
    planes = grey(DARK)
    planes.y[:, :17], planes.y[:, 17:] = left, right
    return planes


def people(ms: int, *ids: int, camera: str = "gate") -> Tracks:
    places = {number: (LEFT, RIGHT)[number - 1] for number in ids}
    return tracks_of(at_ms(ms, camera=camera), places)


def follow(act: Driven, first_ms: int, until_ms: int, *ids: int, camera: str = "gate") -> None:
    """A bright person on the left, a dark one on the right."""
    for ms in range(first_ms, until_ms, 40):
        act.frame(at_ms(ms, camera=camera), two_people(BRIGHT, DARK))
        act.take(f"track.{camera}", people(ms, *ids, camera=camera))


def test_each_person_acts_alone(person_model: Path) -> None:
    with Driven(Act, config_of(person_model, scope="track"), name="act") as act:
        follow(act, 0, 2000, 1, 2)
        ((kind, fields),) = act.happenings()
        assert (kind, fields["class"], fields["track_id"]) == ("action.started", "wild", 1)
        assert act.annotations()[-1].captions == ((1, "wild"),)


def test_what_is_known_of_a_person_goes_with_the_person(person_model: Path) -> None:
    with Driven(Act, config_of(person_model, scope="track"), name="act") as act:
        follow(act, 0, 2000, 1, 2)
        watched = act.stage._observers["gate"].streams("gate")
        assert sorted(stream.track_id for stream in watched) == [1, 2]
        follow(act, 2000, 3000, 2)
        watched = act.stage._observers["gate"].streams("gate")
        assert [stream.track_id for stream in watched] == [2]
        assert [kind for kind, _ in act.happenings()] == ["action.started", "action.ended"]
        assert act.annotations()[-1].captions == ()


def test_frames_wait_for_their_tracks_and_tracks_for_their_frames(person_model: Path) -> None:
    with Driven(Act, config_of(person_model, scope="track"), name="act") as act:
        act.frame(at_ms(0), two_people(BRIGHT, DARK))
        act.frame(at_ms(40), two_people(BRIGHT, DARK))
        assert act.annotations() == []
        number = act.take("track.gate", people(0, 1))
        assert [each.info.pts for each in act.annotations()] == [0]
        assert ("track.gate", number) in act.given_back
        number = act.take("track.gate", people(40, 1))
        assert ("track.gate", number) in act.given_back  # of a frame that nobody wants
        early = act.take("track.gate", people(120, 1))
        assert ("track.gate", early) not in act.given_back  # a successor would need them
        act.frame(at_ms(120), two_people(BRIGHT, DARK))
        assert ("track.gate", early) in act.given_back
        assert [each.info.pts for each in act.annotations()] == [0, 120]


def test_people_that_were_not_looked_for_are_not_waited_for(person_model: Path) -> None:
    with Driven(Act, config_of(person_model, scope="track"), name="act") as act:
        act.frame(at_ms(0), two_people(BRIGHT, DARK))
        missed = people(0)
        act.take(
            "track.gate",
            msgspec.structs.replace(
                missed, detections=msgspec.structs.replace(missed.detections, skipped="too old")
            ),
        )
        assert [each.info.pts for each in act.annotations()] == [0]
        act.frame(at_ms(120), two_people(BRIGHT, DARK))
        act.end("decode.gate")
        assert [each.info.pts for each in act.annotations()] == [0]
        act.end("track.gate")
        assert [each.info.pts for each in act.annotations()] == [0, 120]
        assert act.stage.finished()


def test_tracks_may_come_when_all_frames_are_done(person_model: Path) -> None:
    with Driven(Act, config_of(person_model, scope="track"), name="act") as act:
        act.frame(at_ms(0), two_people(BRIGHT, DARK))
        act.take("track.gate", people(0, 1))
        act.frame(at_ms(40), two_people(BRIGHT, DARK))
        act.end("decode.gate")
        assert not act.stage.finished()  # or they would count as lost
        number = act.take("track.gate", people(40, 1))
        assert ("track.gate", number) in act.given_back
        act.end("track.gate")
        assert act.stage.finished()


def test_files_do_not_depend_on_each_other(person_model: Path) -> None:
    """Nor on which of two files is read faster; live the cameras share the budget."""

    def alone(*, other_first: bool) -> list[object]:
        config = config_of(person_model, scope="track", cameras=2, crops_per_s=8)
        with Driven(Act, config, name="act") as act:
            if other_first:
                follow(act, 0, 3000, 1, 2, camera="yard")
            for ms in range(0, 3000, 40):
                follow(act, ms, ms + 40, 1, 2)
                if not other_first:
                    follow(act, ms, ms + 40, 1, 2, camera="yard")
            return [
                (each.info.pts, each.happenings, each.captions)
                for each in act.annotations()
                if each.info.camera == "gate"
            ]

    assert alone(other_first=True) == alone(other_first=False)


def test_all_live_cameras_go_through_the_network_together(scene_model: Path) -> None:
    config = config_of(scene_model, cameras=2)
    with Driven(Act, config, name="act", live=True) as act:
        calls: list[int] = []
        infer = act.stage._model.engine.infer

        def count(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            calls.append(len(arrays["planes"]))
            return infer(arrays)

        act.stage._model.engine.infer = count
        act.stage.tick_at = float("inf")
        settle, act.settle = act.settle, lambda: None
        for camera in ("gate", "yard"):
            act.frame(at_ms(0, camera=camera), grey(DARK))
        settle()
        assert calls == [2]
        assert sorted(each.info.camera for each in act.annotations()) == ["gate", "yard"]


def test_only_who_follows_persons_is_told_of_them(scene_model: Path) -> None:
    for scope in ("frame", "track"):
        graph = build_graph(config_of(scene_model, scope=scope), {"gate": False})
        assert ("track.gate" in graph.stage("act").producers) == (scope == "track")
        assert ("act" in graph.stage("track.gate").consumers) == (scope == "track")


def opened(model: Path | str, **actions: object) -> None:
    with Driven(Act, config_of(model, **actions), name="act"):
        pass


def test_what_does_not_fit_is_one_error(scene_model: Path) -> None:
    with pytest.raises(ConfigError, match=r"actions\.scope: must be frame for .*, got track; cha"):
        opened(scene_model, scope="track")
    with pytest.raises(ConfigError, match=r"actions: classes must be of calm, wild, got dance"):
        opened(scene_model, classes=["dance"])
    with pytest.raises(ConfigError, match=r"actions\.off: must be at most actions\.on \(0\.3\), g"):
        opened(scene_model, on=0.3, off=0.4)
    with pytest.raises(ConfigError, match=r"actions: crops_per_s must be at least 8"):
        opened(scene_model, crops_per_s=1)
    with pytest.raises(ModelError, match=r"actions: nowhere: model must be .*; check the name"):
        opened("nowhere")


def test_persons_need_a_detector(person_model: Path) -> None:
    with pytest.raises(ConfigError, match=r"actions\.scope: track needs a detector, got none"):
        build_config(
            {
                "cameras": {"gate": "x"},
                "detector": None,
                "actions": {"model": str(person_model), "scope": "track"},
            }
        )


def test_the_shipped_recognisers_fit_the_stage() -> None:
    for model, scope in (("fight", "frame"), ("street_actions", "track")):
        with Driven(Act, config_of(model, scope=scope), name="act") as act:
            for ms in range(0, 1000, 40):
                act.frame(at_ms(ms), grey(DARK, 320, 240))
                act.take("track.gate", people(ms, 1, 2))
            assert len(act.annotations()) == 8
            assert "fight" not in {fields["class"] for _, fields in act.happenings()}


def test_a_caption_does_not_outlive_who_wrote_it(scene_model: Path) -> None:
    """The stage was given up in mid-action: the red bar goes."""
    camera = config_of(scene_model).cameras["gate"]
    painter = Painter("gate", camera)
    said = Annotation(at_ms(0), captions=((0, "wild"),))
    bars = []
    for ms in (0, 960, 1040):
        info = msgspec.structs.replace(at_ms(ms), width=320, height=240)
        planes = grey(DARK, 320, 240)
        painter.learn(info, None, {"act": said} if ms == 0 else {})
        painter.paint(planes, info)
        bars.append(int((planes.v > 180).sum()))
    assert bars[0] == bars[1] > 100
    assert bars[2] == 0
