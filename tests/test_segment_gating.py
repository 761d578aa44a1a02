"""Zones and lines that count on some surfaces only: what lies below whom, and since when."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from annotators import Driven
from samples import info_of

from engines.cascade.labelcode import encode
from streamer.analytics import Analytics, Sight, Totals
from streamer.analytics.footing import Footing, Surfaces
from streamer.analytics.maps import Maps
from streamer.config import CameraConfig, Config
from streamer.configfile import build_config
from streamer.errors import ConfigError
from streamer.graph import build_graph
from streamer.ledger import COUNTERS
from streamer.messages import Annotation, Detections, FrameInfo, LabelMap, PeerDown
from streamer.stages.track import Track
from streamer.view import LineConfig, ZoneConfig, check_surfaces

NAMES = ("road", "pavement", "pedestrian")
ROAD, PAVEMENT, PEDESTRIAN = range(3)
SIZE = (160, 120)
EVERYWHERE = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))


def halves(left: int = ROAD, right: int = PAVEMENT) -> np.ndarray:
    """Labels of 40x30: two surfaces side by side."""
    labels = np.full((30, 40), left, np.uint8)
    labels[:, 20:] = right
    return labels


def below(labels: np.ndarray, *feet: tuple[float, float], on: tuple[str, ...]) -> list[bool]:
    """Who counts, of persons 10 px wide and 40 px high with their feet at these places."""
    footing = Footing([ZoneConfig(polygon=EVERYWHERE, on=on)], *SIZE)
    boxes = np.array([(x - 5, y - 40, x + 5, y) for x, y in feet], np.float64)
    points = np.array(feet, np.float64)[:, None]
    counts = np.zeros((len(feet), 1), bool)
    footing.update(counts, points, boxes, Surfaces(labels, NAMES))
    return counts[:, 0].tolist()


def test_the_surface_at_the_feet_counts() -> None:
    assert below(halves(), (40, 60), (120, 60), on=("road",)) == [True, False]
    assert below(halves(), (40, 60), (120, 60), on=("pavement",)) == [False, True]
    assert below(halves(), (40, 60), (120, 60), on=("road", "pavement")) == [True, True]
    assert below(halves(), (40, 60), on=()) == [True]


def test_who_stands_there_hides_nothing() -> None:
    labels = halves()
    labels[5:16, 8:12] = PEDESTRIAN  # down to 64 px, a little below the box
    assert below(labels, (40, 60), on=("road",)) == [True]
    assert below(labels, (40, 60), on=("pavement",)) == [False]
    assert below(labels, (40, 60), on=("pedestrian",)) == [True]  # whoever asks for it, gets it


def test_what_lies_beyond_the_next_surface_does_not_count() -> None:
    labels = halves(PAVEMENT, PAVEMENT)
    labels[15:] = ROAD  # from 60 px down; this one stands at 58
    assert below(labels, (40, 58), on=("road",)) == [False]


def test_at_the_edges_of_the_picture() -> None:
    assert below(halves(), (0, 120), (160, 120), (159.9, 5), on=("pavement",)) == [
        False, True, True,
    ]  # fmt: skip


def test_what_is_not_known_stays_as_it_was() -> None:
    footing = Footing([ZoneConfig(polygon=EVERYWHERE, on=("road",))], *SIZE)
    box, point = np.array([[35.0, 20, 45, 60]]), np.array([[[40.0, 60.0]]])
    on = np.zeros((1, 1), bool)
    footing.update(on, point, box, None)
    assert not on.any()
    footing.update(on, point, box, Surfaces(halves(), NAMES))
    assert on.all()
    footing.update(on, point, box, None)
    footing.update(on, point, box, Surfaces(halves(PEDESTRIAN), NAMES))  # nothing but people
    assert on.all()
    footing.update(on, point, box, Surfaces(halves(PAVEMENT), NAMES))
    assert not on.any()


class Scene:
    """One person of 10x40 px whose feet are told, on labels that are told."""

    def __init__(self, **view: object) -> None:
        camera = CameraConfig(source="x", **view)  # type: ignore[arg-type]
        self.analytics = Analytics("gate", camera, ("person", "car"), Totals([0] * COUNTERS))
        self.seq = 0

    def see(self, x: float, labels: np.ndarray | None, seconds: float = 0.04) -> list[str]:
        told = []
        for _ in range(round(seconds * 25)):
            box = np.array([[x - 5, 20.0, x + 5, 60.0]])
            surfaces = None if labels is None else Surfaces(labels, NAMES)
            sight = Sight(
                self.seq, self.seq / 25, *SIZE, np.array([7]), box, np.array([0]),
                np.array([True]), np.empty(0, np.int64), surfaces,
            )  # fmt: skip
            told += [each.kind for each in self.analytics.update(sight)]
            self.seq += 1
        return told


ROADWAY = ZoneConfig(polygon=EVERYWHERE, on=("road",))


def test_a_visit_begins_and_ends_with_the_surface() -> None:
    scene = Scene(zones={"roadway": ROADWAY})
    assert scene.see(120, halves(), 2) == []
    assert scene.see(40, halves(), 0.4) == []
    assert scene.see(40, halves(), 0.08) == ["zone.enter"]  # settled
    assert scene.see(120, halves(), 0.4) == []
    assert scene.see(120, halves(), 0.08) == ["zone.leave"]


def test_labels_that_flicker_begin_and_end_nothing() -> None:
    scene = Scene(zones={"roadway": ROADWAY})
    told = []
    for _ in range(10):
        told += scene.see(40, halves(), 0.2) + scene.see(40, halves(PAVEMENT), 0.2)
    assert told == []
    told = scene.see(40, halves(), 1)
    for _ in range(10):
        told += scene.see(40, halves(PAVEMENT), 0.2) + scene.see(40, halves(), 0.2)
    assert told == ["zone.enter"]


def test_over_the_border_of_the_polygon_the_margin_is_enough() -> None:
    left_half = ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0))
    zone = ZoneConfig(polygon=left_half, on=("road",))
    scene = Scene(zones={"roadway": zone})
    assert scene.see(40, halves(), 1) == ["zone.enter"]
    assert scene.see(120, halves(ROAD, ROAD)) == ["zone.leave"]


def test_who_is_inside_stays_while_nobody_knows_the_surface() -> None:
    scene = Scene(zones={"roadway": ROADWAY})
    assert scene.see(40, None, 1) == []
    assert scene.see(40, halves(), 1) == ["zone.enter"]
    assert scene.see(40, None, 5) == []


def test_a_line_counts_on_its_surface_only() -> None:
    ends = ((0.5, 1.0), (0.5, 0.0))
    scene = Scene(lines={"kerb": LineConfig(ends=ends, on=("road",)), "any": LineConfig(ends=ends)})
    road, pavement = halves(ROAD, ROAD), halves(PAVEMENT, PAVEMENT)
    crossings = [scene.see(x, labels, 0.2) for labels in (pavement, road) for x in (40, 120, 40)]
    assert crossings == [
        [], ["line.crossed"], ["line.crossed"], [], ["line.crossed"] * 2, ["line.crossed"] * 2,
    ]  # fmt: skip


def at(seq: int, *, epoch: int = 1, jump: bool = False) -> FrameInfo:
    info = info_of(seq, epoch=epoch, width=SIZE[0], height=SIZE[1])
    return msgspec.structs.replace(info, discontinuity=jump)


def said(info: FrameInfo, labels: np.ndarray | None = None) -> Annotation:
    """What the segmenter says of a frame; None: nothing."""
    if labels is None:
        return Annotation(info, skipped="cadence")
    coded = encode(labels)
    return Annotation(info, label_map=LabelMap(320, 240, coded, NAMES, (0.5, 0.5, 0.0)))


def test_frames_between_two_maps_have_the_one_before() -> None:
    maps = Maps(2.0)
    maps.add(said(at(2), halves()))
    maps.add(said(at(3)))
    maps.add(said(at(5), halves(PAVEMENT)))
    labels = [maps.at(at(seq)) for seq in range(7)]
    assert labels[:2] == [None, None]
    assert [int(found.labels[0, 0]) for found in labels[2:] if found] == [ROAD] * 3 + [PAVEMENT] * 2
    assert labels[2].class_names == NAMES


def test_no_map_holds_across_a_gap_an_epoch_or_a_long_time() -> None:
    def after(info: FrameInfo) -> Surfaces | None:
        maps = Maps(2.0)
        maps.add(said(at(0), halves()))
        return maps.at(info)

    assert after(at(50)) is not None
    assert after(at(51)) is None
    assert after(at(1, epoch=2)) is None
    assert after(at(1, jump=True)) is None
    maps = Maps(2.0)
    maps.add(said(at(0), halves()))
    assert maps.at(at(1, jump=True)) is None
    assert maps.at(at(2)) is None
    maps.add(said(at(3, jump=True)))
    maps.add(said(at(4), halves()))
    assert maps.at(at(3)) is None
    assert maps.at(at(4)) is not None


def test_a_jump_that_only_the_segmenter_saw_ends_a_map() -> None:
    maps = Maps(2.0)
    maps.add(said(at(0), halves()))
    maps.add(said(at(1, jump=True)))
    assert maps.at(at(2)) is None


def test_what_is_said_again_after_a_crash_is_passed_over() -> None:
    maps = Maps(2.0)
    maps.add(said(at(4), halves()))
    maps.add(said(at(2), halves(PAVEMENT)))
    assert maps.at(at(3)) is None
    assert int(maps.at(at(4)).labels[0, 0]) == ROAD


def config_of(*, on: object = ("road",), **sections: object) -> Config:
    data = {
        "cameras": {
            "gate": {
                "source": "x",
                "zones": {"roadway": {"polygon": EVERYWHERE, "on": list(on)}},
            }
        },
        "segmenter": {},
        **sections,
    }
    return build_config(data)


def test_only_who_asks_is_told_by_the_segmenter() -> None:
    for on, live in ((("road",), False), (("road",), True), ((), True)):
        graph = build_graph(config_of(on=on), {"gate": live})
        asked = "segment" in graph.stage("track.gate").producers
        assert asked == ("track.gate" in graph.stage("segment").consumers) == bool(on)


def test_surfaces_need_a_segmenter_that_knows_them() -> None:
    with pytest.raises(ConfigError, match=r"gate\.zones\.roadway\.on: needs a segmenter, got none"):
        config_of(segmenter=None)
    zones = config_of(on=("road", "lava")).cameras["gate"].zones
    with pytest.raises(ConfigError, match=r"roadway\.on: 'lava' must be a class of the segm"):
        check_surfaces("cameras.gate", zones, {}, NAMES)
    check_surfaces("cameras.gate", zones, {}, (*NAMES, "lava"))


def found(info: FrameInfo, skipped: str = "") -> Detections:
    """A person on the left."""
    if skipped:
        return Detections(info, b"", b"", b"", ("person",), skipped=skipped)
    box = np.array([[35, 20, 45, 60]], np.float32)
    score, kind = np.array([0.9], np.float32), np.zeros(1, np.int16)
    return Detections(info, box.tobytes(), score.tobytes(), kind.tobytes(), ("person",))


def test_detections_wait_for_what_is_said_of_their_frame() -> None:
    with Driven(Track, config_of(), name="track.gate") as track:
        numbers = [track.take("infer", found(at(seq))) for seq in range(3)]
        assert track.sent == []
        early = track.take("segment", said(at(3), halves()))
        assert len(track.tracks()) == 3  # passed over, so nothing will be said of them
        assert track.given_back == [("infer", number) for number in numbers]
        track.take("infer", found(at(3)))
        assert ("segment", early) in track.given_back
        late = track.take("segment", said(at(2)))
        assert ("segment", late) in track.given_back


def test_the_same_detections_and_maps_give_the_same_events_in_any_order_of_arrival() -> None:
    def play(lead: int) -> list[tuple[str, dict[str, object]]]:
        with Driven(Track, config_of(), name="track.gate") as track:
            for seq in range(60 + abs(lead)):
                if 0 <= (n := seq + min(lead, 0)) < 60:
                    track.take("segment", said(at(n), None if n % 5 else halves()))
                if 0 <= (n := seq - max(lead, 0)) < 60:
                    track.take("infer", found(at(n)))
            track.end("infer")
            track.end("segment")
            assert track.stage.finished()
            assert len(track.tracks()) == 60
            return track.happenings()

    told = play(0)
    assert [kind for kind, _ in told] == ["zone.enter", "zone.leave"]
    assert play(20) == told
    assert play(-20) == told


def test_live_nobody_waits_longer_than_encode_can() -> None:
    config = config_of(encode={"deadline_s": 0.1})
    with Driven(Track, config, name="track.gate", live=True) as track:
        track.take("infer", found(at(0)))
        assert track.sent == []
        while not track.sent:
            track.settle()
        track.take("segment", said(at(1), halves()))
        for seq in range(1, 30):
            track.take("infer", found(at(seq)))
            track.take("segment", said(at(seq + 1)))
        assert [kind for kind, _ in track.happenings()] == ["zone.enter"]


@pytest.mark.parametrize("by", ["end", "failure"])
def test_a_segmenter_that_is_gone_is_not_waited_for(by: str) -> None:
    with Driven(Track, config_of(), name="track.gate") as track:
        track.take("infer", found(at(0)))
        if by == "end":
            track.end("segment")
        else:
            track.stage.on_peer_down(PeerDown("segment", 3, final=True))
        track.take("infer", found(at(1)))
        assert len(track.tracks()) == 2
        track.end("infer")
        assert track.stage.finished()


def test_the_end_comes_after_the_last_frame() -> None:
    with Driven(Track, config_of(), name="track.gate") as track:
        track.take("infer", found(at(0)))
        track.end("infer")
        assert track.sent == []
        track.take("segment", said(at(0), halves()))
        assert [type(body).__name__ for _, body in track.sent] == ["Tracks", "EndOfStream"]
        assert not track.stage.finished()  # the segmenter would be cut off in mid-sentence
        track.end("segment")
        assert track.stage.finished()


def test_a_frame_that_was_not_inferred_waits_for_its_turn_only() -> None:
    with Driven(Track, config_of(), name="track.gate") as track:
        track.take("segment", said(at(0), halves()))
        track.take("infer", found(at(0), skipped="too old"))
        assert [body.detections.skipped for body in track.tracks()] == ["too old"]
