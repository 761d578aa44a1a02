"""What a tracker promises about identities, times and classes, on scenes of known objects."""

from __future__ import annotations

import numpy as np
import pytest

from streamer.errors import ConfigError
from streamer.tracking import CONFIRMED, LOST, TENTATIVE, Detections, Tracker, Tracks, make_tracker

NAMES = ["default", "sort", "bytetrack", "ocsort", "botsort"]
FPS = 25


def detections(
    *boxes: tuple[float, float, float, float],
    scores: float | list[float] = 0.9,
    classes: int | list[int] = 0,
    motion: np.ndarray | None = None,
    embeddings: np.ndarray | None = None,
) -> Detections:
    count = len(boxes)
    return Detections(
        np.array(boxes, np.float32).reshape(count, 4),
        np.broadcast_to(np.float32(scores), count).astype(np.float32),
        np.broadcast_to(np.int64(classes), count).astype(np.int64),
        motion,
        embeddings,
    )


def box(x: float, y: float = 100.0, width: float = 40.0, height: float = 100.0) -> tuple:
    return (x, y, x + width, y + height)


def feed(tracker: Tracker, frames: list[Detections], start_s: float = 0.0) -> list[Tracks]:
    return [tracker.update(frame, start_s + i / FPS) for i, frame in enumerate(frames)]


def id_at(tracks: Tracks, detection: int) -> int:
    (row,) = np.flatnonzero(tracks.detection == detection)
    return int(tracks.ids[row])


@pytest.mark.parametrize("name", NAMES)
def test_objects_that_cross_keep_their_ids(name):
    tracker = make_tracker(name)
    # They pass each other on paths 30 px apart, at 150 px/s each.
    frames = [
        detections(box(100 + 6 * i, 100), box(400 - 6 * i, 130, height=104)) for i in range(50)
    ]
    first, *_, last = feed(tracker, frames)
    assert [id_at(first, 0), id_at(first, 1)] == [id_at(last, 0), id_at(last, 1)]
    assert tracker.next_id == 3


@pytest.mark.parametrize("hidden_s", [0.2, 0.8])
@pytest.mark.parametrize("name", ["default", "bytetrack", "ocsort", "botsort"])
def test_object_found_again_behind_an_occluder(name, hidden_s):
    tracker = make_tracker(name)
    before = feed(tracker, [detections(box(100 + 4 * i)) for i in range(20)])[-1]
    hidden = round(hidden_s * FPS)
    gone = feed(tracker, [Detections.empty()] * hidden, 20 / FPS)[-1]
    assert gone.ids.tolist() == before.ids.tolist()
    assert gone.detection.tolist() == [-1]
    # Where it is now: 100 px/s went on.
    again = tracker.update(detections(box(100 + 4 * (20 + hidden))), (20 + hidden) / FPS)
    assert again.ids.tolist() == before.ids.tolist()
    assert again.state.tolist() == [CONFIRMED]


def test_object_hidden_for_longer_than_lost_s_is_another():
    tracker = make_tracker("bytetrack", lost_s=1.0)
    before = feed(tracker, [detections(box(100))] * 10)[-1]
    empty = feed(tracker, [Detections.empty()] * 26, 10 / FPS)
    assert [t.ended.tolist() for t in empty if len(t.ended)] == [before.ids.tolist()]
    again = tracker.update(detections(box(100)), 40 / FPS)
    assert again.ids.tolist() == [before.ids[0] + 1]


def test_a_missed_track_is_lost_and_a_settled_one_coasts_while_misses_heal():
    tracker = make_tracker("default", coast_share=0.0, coast_s=0.2)
    feed(tracker, [detections(box(100 + 4 * i)) for i in range(10)])
    states = [t.state.tolist() for t in feed(tracker, [Detections.empty()] * 7, 10 / FPS)]
    assert states == [[CONFIRMED]] * 5 + [[LOST]] * 2
    doubtful = make_tracker("default", coast_share=1.0, coast_s=0.2)
    feed(doubtful, [detections(box(100 + 4 * i)) for i in range(10)])
    assert doubtful.update(Detections.empty(), 10 / FPS).state.tolist() == [LOST]


def test_low_score_extends_a_track_but_begins_none():
    tracker = make_tracker("bytetrack")
    feed(tracker, [detections(box(100))] * 5)
    dim = feed(tracker, [detections(box(100), box(500), scores=0.2)] * 5, 5 / FPS)[-1]
    assert dim.detection.tolist() == [0]
    assert dim.hits.tolist() == [10]
    assert tracker.next_id == 2
    one_round = make_tracker("bytetrack", low_score=0.5)
    feed(one_round, [detections(box(100))] * 5)
    dim = one_round.update(detections(box(100), scores=0.2), 5 / FPS)
    assert dim.detection.tolist() == [-1]


def test_low_score_finds_a_lost_track_only_within_low_s():
    def found_after(missed: int) -> bool:
        tracker = make_tracker("bytetrack", low_s=0.2)
        feed(tracker, [detections(box(100))] * 5 + [Detections.empty()] * missed)
        last = tracker.update(detections(box(100), scores=0.3), (5 + missed) / FPS)
        return last.detection.tolist() == [0]

    assert found_after(5)
    assert not found_after(6)


def test_confirmed_only_after_hits_and_time():
    tracker = make_tracker("bytetrack", confirm_hits=3, confirm_s=0.2)
    states = [t.state[0] for t in feed(tracker, [detections(box(100))] * 7)]
    assert states == [TENTATIVE] * 5 + [CONFIRMED] * 2
    tracker = make_tracker("bytetrack", confirm_hits=3)
    states = [t.state[0] for t in feed(tracker, [detections(box(100))] * 4)]
    assert states == [TENTATIVE] * 2 + [CONFIRMED] * 2


@pytest.mark.parametrize("name", NAMES)
def test_a_flash_is_never_confirmed(name):
    tracker = make_tracker(name)
    tracks = feed(tracker, [detections(box(100)), *[Detections.empty()] * 3])
    assert not any(t.confirmed.any() for t in tracks)
    assert [t.ended.tolist() for t in tracks] == [[], [1], [], []]


def test_new_track_is_shown_at_once_only_where_its_like_proved_real():
    tracker = make_tracker("default")
    assert tracker.update(detections(box(100), box(300), scores=[0.95, 0.65]), 0.0).shown.tolist()
    sure = make_tracker("default")
    first = sure.update(detections(box(100), box(300), scores=[0.95, 0.65]), 0.0)
    assert first.shown.tolist() == [True, False]
    assert not first.confirmed.any()
    # Twenty flashes of a score that promised much: the tracker learns to wait.
    for i in range(1, 41):
        sure.update(detections(box(600), scores=0.95) if i % 2 else Detections.empty(), i / FPS)
    assert not sure.update(detections(box(600), scores=0.95), 2.0).shown.any()


def test_frame_rate_does_not_matter_to_a_prediction():
    fine, coarse = make_tracker("bytetrack"), make_tracker("bytetrack")
    for tracker in (fine, coarse):
        feed(tracker, [detections(box(100 + 3 * i, width=40 + i)) for i in range(10)])
    times = [0.36 + step * 0.05 for step in range(1, 9)]
    for time_s in times:
        last = fine.update(Detections.empty(), time_s)
    leap = coarse.update(Detections.empty(), times[-1])
    np.testing.assert_allclose(last.boxes_xyxy, leap.boxes_xyxy, atol=1e-4)
    for tracker in (fine, coarse):
        tracker.update(detections(box(154)), 0.8)
    a, b = (t.update(detections(box(158)), 0.84) for t in (fine, coarse))
    np.testing.assert_allclose(a.boxes_xyxy, b.boxes_xyxy, atol=1e-4)
    np.testing.assert_allclose(a.velocities_px_s, b.velocities_px_s, atol=1e-3)


def test_irregular_frames_keep_an_object():
    tracker = make_tracker("default")
    dice = np.random.default_rng(5)
    time_s = 0.0
    for _ in range(60):
        time_s += float(dice.choice([0.01, 0.04, 0.04, 0.2]))
        tracks = tracker.update(detections(box(100 + 60 * time_s)), time_s)
    assert tracks.ids.tolist() == [1]
    assert abs(tracks.velocities_px_s[0, 0] - 60) < 5
    assert tracks.age_s[0] == pytest.approx(time_s, abs=0.25)


def test_a_gap_as_long_as_a_life_ends_every_track():
    tracker = make_tracker("default")
    before = feed(tracker, [detections(box(100), box(300))] * 5)[-1]
    after = tracker.update(detections(box(100), box(300)), 60.0)
    assert sorted(after.ended.tolist()) == sorted(before.ids.tolist())
    assert set(after.ids.tolist()).isdisjoint(before.ids.tolist())


def test_time_that_runs_backwards_ends_every_track():
    tracker = make_tracker("default")
    feed(tracker, [detections(box(100))] * 5, 100.0)
    after = tracker.update(detections(box(100)), 0.0)
    assert after.ended.tolist() == [1]
    assert after.ids.tolist() == [2]
    assert after.state.tolist() == [TENTATIVE]


def test_the_same_time_twice_is_no_step():
    tracker = make_tracker("default")
    for _ in range(4):
        tracks = tracker.update(detections(box(100)), 1.0)
    assert tracks.ids.tolist() == [1]
    assert tracks.hits.tolist() == [4]


def test_reset_ends_all_and_ids_go_on():
    tracker = make_tracker("default", first_id=7)
    feed(tracker, [detections(box(100), box(300))] * 3, 5.0)
    assert tracker.reset().tolist() == [7, 8]
    assert tracker.reset().tolist() == []
    after = tracker.update(detections(box(100)), 0.0)
    assert after.ids.tolist() == [9]
    assert after.ended.tolist() == []


def test_classes_are_associated_apart_unless_grouped():
    tracker = make_tracker("default")
    feed(tracker, [detections(box(100), classes=2)] * 4)
    assert tracker.update(detections(box(100), classes=7), 4 / FPS).ids.tolist() == [1, 2]
    grouped = make_tracker("default", class_groups=[[2, 5, 7]])
    feed(grouped, [detections(box(100), classes=2)] * 4)
    tracks = grouped.update(detections(box(100), classes=7), 4 / FPS)
    assert tracks.ids.tolist() == [1]
    assert tracks.classes.tolist() == [2]  # four cars outvote one truck
    tracks = feed(grouped, [detections(box(100), classes=7)] * 5, 5 / FPS)[-1]
    assert tracks.classes.tolist() == [7]


def test_classes_outside_the_groups_keep_their_own_number():
    tracker = make_tracker("default", class_groups=[[2, 5, 7], [1, 3]])
    frame = detections(box(0), box(200), box(400), box(600), classes=[0, 7, 3, 1000])
    tracks = feed(tracker, [frame] * 3)[-1]
    assert tracks.classes[np.argsort(tracks.detection)].tolist() == [0, 7, 3, 1000]


@pytest.mark.parametrize(
    "bad",
    [
        (float("nan"), 0, 10, 10),
        (0, 0, float("inf"), 10),
        (float("-inf"), 0, 10, 10),
        (50, 50, 50, 90),
        (50, 50, 90, 50),
        (90, 50, 50, 90),
    ],
)
def test_boxes_without_area_or_number_are_dropped_and_counted(bad):
    tracker = make_tracker("default")
    with np.errstate(all="raise"):
        tracks = feed(tracker, [detections(bad, box(100))] * 3)[-1]
    assert tracks.detection.tolist() == [1]
    assert tracker.refused == 3


def test_scores_that_are_no_number_are_dropped():
    tracker = make_tracker("default")
    assert not len(tracker.update(detections(box(100), scores=float("nan")), 0.0))
    assert tracker.refused == 1


@pytest.mark.parametrize("name", NAMES)
def test_empty_frames(name):
    tracker = make_tracker(name)
    tracks = feed(tracker, [Detections.empty()] * 3)[-1]
    assert len(tracks) == 0
    assert tracks.boxes_xyxy.shape == (0, 4)
    assert tracks.ended.tolist() == []


def test_a_thousand_objects():
    tracker = make_tracker("default")
    grid = [box(60 * (i % 40), 120 * (i // 40)) for i in range(1000)]
    dice = np.random.default_rng(1)
    for i in range(6):
        jitter = dice.normal(0, 1, (1000, 4)).astype(np.float32)
        frame = detections(*grid)
        order = dice.permutation(1000)
        tracks = tracker.update(
            Detections((frame.boxes_xyxy + jitter)[order], frame.scores, frame.classes), i / FPS
        )
        assert order[tracks.detection].tolist() == (order0 := order[tracks.detection].tolist())
    assert tracker.next_id == 1001
    assert sorted(order0) == list(range(1000))


def test_camera_motion_moves_the_tracks():
    jump = np.array([[1.0, 0.0, 200.0], [0.0, 1.0, -50.0]])
    still = make_tracker("default")
    feed(still, [detections(box(100, 300))] * 5)
    tracks = still.update(detections(box(300, 250), motion=jump), 5 / FPS)
    assert tracks.ids.tolist() == [1]
    assert abs(tracks.velocities_px_s).max() < 5  # it was the camera that moved
    blind = make_tracker("default", camera_motion=False)
    feed(blind, [detections(box(100, 300))] * 5)
    assert len(blind.update(detections(box(300, 250), motion=jump), 5 / FPS)) == 2


def test_appearance_tells_neighbours_apart():
    red, blue = np.array([[1.0, 0, 0]], np.float32), np.array([[0, 0, 1.0]], np.float32)
    tracker = make_tracker("botsort", embedding_size=3)
    both = np.concatenate([red, blue])
    feed(tracker, [detections(box(100), box(125), embeddings=both)] * 5)
    # They have changed places while nobody looked.
    swapped = tracker.update(detections(box(100), box(125), embeddings=both[::-1]), 5 / FPS)
    assert swapped.detection[np.argsort(swapped.ids)].tolist() == [1, 0]


def test_wrong_shapes_are_refused():
    good = detections(box(100))
    with pytest.raises(ValueError, match=r"boxes_xyxy must be \(N, 4\), got \(1, 5\)"):
        Detections(np.zeros((1, 5), np.float32), good.scores, good.classes)
    with pytest.raises(ValueError, match=r"scores must be \(1,\) like the boxes, got \(2,\)"):
        Detections(good.boxes_xyxy, np.zeros(2, np.float32), good.classes)
    with pytest.raises(ValueError, match=r"motion must be \(2, 3\), got \(3, 3\)"):
        detections(box(100), motion=np.eye(3))
    with pytest.raises(ValueError, match=r"embeddings must be \(1, D\), got \(2, 3\)"):
        detections(box(100), embeddings=np.zeros((2, 3), np.float32))
    tracker = make_tracker("botsort", embedding_size=8)
    with pytest.raises(ValueError, match=r"embeddings must be \(N, 8\).*got \(1, 3\)"):
        tracker.update(detections(box(100), embeddings=np.zeros((1, 3), np.float32)), 0.0)
    with pytest.raises(ValueError, match="time_s must be finite, got nan"):
        tracker.update(good, float("nan"))


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"one of default, sort, .*botsort, got 'deepsort'"):
        make_tracker("deepsort")
    with pytest.raises(ConfigError, match=r"tracker\.speed: no such option; .*low_score"):
        make_tracker("default", speed=3)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("low_score", -0.1, r"low_score: must be a number from 0 to 1, got -0\.1"),
        ("match_iou", "much", r"match_iou: must be a number from 0 to 1, got 'much'"),
        ("lost_s", 0, r"lost_s: must be a number from 0\.001 to 3600, got 0"),
        ("lost_s", float("nan"), r"lost_s: must be a number .*got nan"),
        ("confirm_hits", 0, r"confirm_hits: must be an int >= 1, got 0"),
        ("confirm_hits", True, r"confirm_hits: must be an int >= 1, got True"),
        ("recover", 1, r"recover: must be true or false, got 1"),
        ("low_score", 0.9, r"low_score: must be at most high_score 0\.5, got 0\.9"),
        ("class_groups", 5, r"class_groups: must be a list of lists"),
        ("class_groups", [[1, 2], [2, 3]], r"class_groups: each class must be .*one group only"),
        ("class_groups", [["car"]], r"class_groups: each class must be an int"),
    ],
)
def test_options_are_checked(option, value, message):
    with pytest.raises(ConfigError, match=message):
        make_tracker("default", **{option: value})


def test_first_id_is_checked():
    with pytest.raises(ConfigError, match=r"first_id: must be 0 or more, got -1"):
        make_tracker("default", first_id=-1)
