"""The rendered street as a source, and its truth as an oracle: equal everywhere, in any order."""

from __future__ import annotations

import hashlib
import threading
import tracemalloc
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from streamer.errors import ConfigError
from streamer.planes import Planes
from streamer.sources.street import LABELS, Sighting, Street, Truth
from streamer.sources.synthetic import StreetOptions, SyntheticSource

SECOND_NS = 1_000_000_000
SMALL = (320, 180)
GRAIN = 4  # the noise of one pixel of luma is 0..4


def rendered(street: Street, frame: int) -> Planes:
    planes = Planes.empty(street.width, street.height)
    street.render(frame, planes)
    return planes


def extent(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def digest(truths: list[Truth]) -> str:
    text = "\n".join(
        f"{t.frame} {t.camera_px} {s.identity} {s.name} {s.action} {s.box_xyxy}"
        for t in truths
        for s in t.sightings
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Clock:
    """A clock that only sleep and the test move on."""

    def __init__(self) -> None:
        self.now_ns = 500 * SECOND_NS

    def __call__(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now_ns += round(seconds * SECOND_NS)


def paced(options: str) -> tuple[SyntheticSource, Clock]:
    clock = Clock()
    source = SyntheticSource(
        f"synthetic:street?size=64x48&{options}",
        paced=True,
        monotonic_ns=clock,
        wall_ns=lambda: clock.now_ns + 10**18,
        sleep=clock.sleep,
    )
    return source, clock


@pytest.fixture(scope="module")
def minute() -> list[Truth]:
    """One truth in each second of the first minute."""
    street = Street(1, *SMALL)
    return [street.truth(frame) for frame in range(0, 1500, 25)]


# Truth


def test_truth_of_a_seed_is_the_same_everywhere() -> None:
    street = Street(11, 640, 360, camera="shake")
    assert digest([street.truth(frame) for frame in (0, 40, 777, 10**6)]) == "e968379828a764df"


def test_seeds_differ() -> None:
    assert digest([Street(1, *SMALL).truth(9)]) != digest([Street(2, *SMALL).truth(9)])


def test_any_order_gives_the_same_truth_and_picture() -> None:
    walked, jumped = Street(3, *SMALL, camera="pan"), Street(3, *SMALL, camera="pan")
    sequence = [(walked.truth(frame), rendered(walked, frame)) for frame in range(20)]
    for frame in (19, 0, 7):
        truth, planes = sequence[frame]
        assert jumped.truth(frame) == truth
        again = rendered(jumped, frame)
        for ours, theirs in ((again.y, planes.y), (again.u, planes.u), (again.v, planes.v)):
            np.testing.assert_array_equal(ours, theirs)


def test_size_only_scales_the_truth() -> None:
    small, large = Street(5, 640, 360).truth(33), Street(5, 1280, 720).truth(33)
    by_identity = {s.identity: s for s in small.sightings}
    for sighting in large.sightings:
        twice = np.multiply(by_identity[sighting.identity].box_xyxy, 2)
        np.testing.assert_allclose(sighting.box_xyxy, twice, atol=1.2)  # lines are whole pixels


@pytest.mark.parametrize("camera", ["static", "pan"])
def test_boxes_bound_the_masks(camera: str) -> None:
    street = Street(2, 1280, 720, camera=camera)
    compared: Counter[str] = Counter()
    for frame in range(0, 900, 75):
        identities = street.instances(frame)
        for sighting in street.truth(frame).sightings:
            mask = identities == sighting.identity
            if not mask.any():
                assert sighting.visibility == 0
                continue
            outwards = np.subtract(extent(mask), sighting.box_xyxy) * (-1, -1, 1, 1)
            assert outwards.max() <= 1.5, sighting
            if sighting.visibility == 1:
                assert outwards.min() >= -1.5, sighting
                compared[sighting.name] += 1
    assert compared["person"] >= 15
    assert compared["car"] >= 5


def test_visibility_is_what_nearer_ones_leave() -> None:
    street = Street(4, 640, 360)
    hidden = 0
    for frame in range(0, 1500, 50):
        identities, truth = street.instances(frame), street.truth(frame)
        feet = {s.identity: s.box_xyxy[3] for s in truth.sightings}
        for sighting in truth.sightings:
            assert 0 <= sighting.visibility <= 1
            if sighting.name != "person" or sighting.visibility > 0.3:
                continue
            x1, y1, x2, y2 = (round(c) for c in sighting.box_xyxy)
            inside, counts = np.unique(identities[y1:y2, x1:x2], return_counts=True)
            covers = inside[(inside != 0) & (inside != sighting.identity)]
            if len(covers):
                front = max(covers, key=lambda i: counts[inside == i][0])
                assert feet[front] > sighting.box_xyxy[3] - 2, (frame, sighting)
                hidden += 1
    assert hidden >= 5


def test_an_identity_keeps_its_class_and_never_comes_back(minute: list[Truth]) -> None:
    names: dict[int, str] = {}
    seen_at: dict[int, list[int]] = {}
    for second, truth in enumerate(minute):
        assert len(set(truth.identities.tolist())) == len(truth.sightings)
        for sighting in truth.sightings:
            assert names.setdefault(sighting.identity, sighting.name) == sighting.name
            seen_at.setdefault(sighting.identity, []).append(second)
    assert len(names) > 60
    longest_s = 6  # who falls at the edge of the picture is out of it until up again
    for seconds in seen_at.values():
        assert max(np.diff([*seconds, seconds[-1]])) <= longest_s


def test_a_minute_shows_every_class_and_action(minute: list[Truth]) -> None:
    sightings = [s for truth in minute for s in truth.sightings if s.visibility > 0.5]
    assert {s.name for s in sightings} == {"person", "bicycle", "car", "motorcycle", "bus", "truck"}
    assert {s.action for s in sightings} == {"walk", "run", "wave", "fall", "stand", None}
    assert all(s.action is None for s in sightings if s.name != "person")


def test_density(minute: list[Truth]) -> None:
    persons = [sum(s.name == "person" for s in t.sightings) for t in minute]
    vehicles = [sum(s.name != "person" for s in t.sightings) for t in minute]
    assert 6 <= np.mean(persons) <= 12
    assert 3 <= np.mean(vehicles) <= 6


def test_persons_are_large_enough_for_a_small_detector() -> None:
    street = Street(6, 1280, 720)
    heights = [
        s.box_xyxy[3] - s.box_xyxy[1]
        for frame in range(0, 1500, 100)
        for s in street.truth(frame).sightings
        if s.action in ("walk", "stand")
        and s.visibility == 1
        and s.box_xyxy[0] > 0
        and s.box_xyxy[2] < 1280
    ]
    assert 45 <= min(heights) <= 90  # children on the far pavement
    assert 200 <= max(heights) <= 260


def test_episodes_begin_and_end_exactly() -> None:
    street = Street(1, 64, 48, fps=Fraction(1000))  # a frame is a millisecond
    checked = 0
    for identity, episode in street.episodes(20.0, 22.0):
        length_s = episode.end_s - episode.begin_s
        assert length_s >= 1
        if episode.action != "walk":
            assert 2 <= length_s <= 6
        for time_s, inside in ((episode.begin_s, True), (episode.end_s, False)):
            at = [
                {s.identity: s for s in street.truth(int(time_s * 1000) + late).sightings}
                for late in (0, 1)
            ]
            if identity in at[0] and identity in at[1]:
                assert (at[0][identity].episode == episode) is not inside
                assert (at[1][identity].episode == episode) is inside
                checked += 1
    assert checked >= 10


def test_endless_street_needs_no_memory() -> None:
    street = Street(8, 64, 48)

    def walk(first_s: int, minutes: int) -> int:
        for second in range(first_s, first_s + 60 * minutes, 60):
            street.episodes(second, second + 1)
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        full = walk(400_000, 60)
        grown = walk(800_000, 120) - full
    finally:
        tracemalloc.stop()
    assert grown < 200_000
    assert len(street.truth(10_000_000).sightings) >= 5


# Pictures


@pytest.mark.parametrize("size", [(64, 48), (641, 361), (321, 480), (640, 200)])
@pytest.mark.parametrize("camera", ["static", "shake", "pan"])
def test_planes_hold_video_levels(size: tuple[int, int], camera: str) -> None:
    street = Street(9, *size, camera=camera)
    for frame in (0, 333):
        planes = rendered(street, frame)
        assert planes.y.min() >= 16
        assert planes.y.max() <= 235
        for chroma in (planes.u, planes.v):
            assert chroma.min() >= 16
            assert chroma.max() <= 240
        assert planes.y.std() > 20
        assert street.labels(frame).shape == street.instances(frame).shape == size[::-1]


def test_planes_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="planes must be 320x180, got 318x180"):
        Street(1, *SMALL).render(0, Planes.empty(318, 180))


def test_actors_are_drawn_where_the_truth_says() -> None:
    street = Street(10, 640, 360)
    a, b = rendered(street, 100), rendered(street, 400)
    difference = np.abs(a.y.astype(int) - b.y)
    seen_a, seen_b = street.instances(100), street.instances(400)
    assert difference[(seen_a != seen_b)].mean() > 25
    empty = (seen_a == 0) & (seen_b == 0)
    empty[120:] = False  # shadows lie on the ground, edges are soft
    assert np.quantile(difference[empty], 0.995) <= GRAIN


def test_noise_changes_from_frame_to_frame() -> None:
    street = Street(10, *SMALL)
    sky = [rendered(street, frame).y[:20].astype(int) for frame in (0, 1)]
    assert 0.5 < np.abs(sky[0] - sky[1]).mean() < GRAIN


@pytest.mark.parametrize("camera", ["shake", "pan"])
def test_background_shifts_by_the_published_offset(camera: str) -> None:
    street = Street(12, 640, 360, camera=camera)
    still = Street(12, 640, 360)
    moved: set[tuple[int, int]] = set()
    above = slice(20, 110)  # over the heads: houses, poles and sky
    for frame in (0, 3, 30, 95):
        dx, dy = street.truth(frame).camera_px
        moved.add((dx, dy))
        ours, theirs = rendered(street, frame), rendered(still, frame)
        columns = slice(max(0, -dx), 640 - max(0, dx))
        source = slice(columns.start + dx, columns.stop + dx)
        for shift in (0, 2):
            rows = slice(above.start + dy + shift, above.stop + dy + shift)
            difference = np.abs(ours.y[above, columns].astype(int) - theirs.y[rows, source])
            aligned = np.quantile(difference, 0.99) <= GRAIN
            assert aligned is np.True_ or shift, (frame, dx, dy)
            assert not (aligned and shift), (frame, dx, dy)
    assert len(moved) == 4


def test_chroma_stays_on_luma_at_every_offset() -> None:
    moving, still = Street(12, 640, 360, camera="shake"), Street(12, 640, 360)
    parities: set[int] = set()
    rows, columns = slice(20, 50), slice(10, 300)
    for frame in range(40):
        dx, dy = moving.truth(frame).camera_px
        if dy % 2 or (dx % 2) in parities:
            continue
        parities.add(dx % 2)
        ours = rendered(moving, frame).v[rows, columns].astype(float)
        theirs = rendered(still, frame).v[rows.start + dy // 2 : rows.stop + dy // 2].astype(float)
        left = theirs[:, columns.start + dx // 2 : columns.stop + dx // 2]
        right = theirs[:, columns.start + dx // 2 + 1 : columns.stop + dx // 2 + 1]
        if dx % 2:
            between = np.abs(ours - (left + right) / 2).mean()
            assert between < 0.7 * min(np.abs(ours - left).mean(), np.abs(ours - right).mean())
        else:
            assert np.mean(ours == left) > 0.97  # poles are drawn coarser than the background
    assert parities == {0, 1}


def test_labels_follow_camvid() -> None:
    street = Street(1, 640, 360)
    assert LABELS[:8] == ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence")
    assert LABELS[8:] == ("vehicle", "pedestrian", "bicyclist")
    found: set[int] = set()
    for frame in range(0, 1000, 100):
        labels, identities = street.labels(frame), street.instances(frame)
        found |= set(np.unique(labels).tolist())
        assert (labels[identities == 0] <= 7).all()
        for sighting in street.truth(frame).sightings:
            mask = identities == sighting.identity
            assert (labels[mask] == label_of(sighting)).all()
    assert found == set(range(11))


def label_of(sighting: Sighting) -> int:
    if sighting.name in ("car", "bus", "truck"):
        return LABELS.index("vehicle")
    return LABELS.index("pedestrian" if sighting.action else "bicyclist")


# The source


def test_file_regime_gives_every_frame() -> None:
    source = SyntheticSource(
        "synthetic:street?seed=4&size=321x181&fps=29.97&seconds=0.2", paced=False
    )
    info = source.open()
    assert (info.width, info.height, info.live, info.frames_declared) == (321, 181, False, 6)
    planes = Planes.empty(info.width, info.height)
    street = Street(4, 321, 181, fps=Fraction(30000, 1001))
    count = 0
    for index, frame in enumerate(source.frames()):
        assert (frame.width, frame.height) == (321, 181)
        assert frame.times.pts == index
        assert frame.times.time_base == Fraction(1001, 30000)
        frame.write_to(planes)
        np.testing.assert_array_equal(planes.y, rendered(street, index).y)
        count += 1
    assert count == 6


def test_camera_regime_keeps_its_schedule() -> None:
    source, clock = paced("fps=29.97&seconds=100")
    assert source.open().live
    begin_ns = clock.now_ns
    for frame in source.frames():
        due_ns = begin_ns + frame.times.pts * SECOND_NS * 1001 // 30000
        assert frame.times.receive_ns == due_ns
        assert frame.times.capture_ns == due_ns + 10**18
        assert abs(clock.now_ns - due_ns) <= 1000  # the sleep of a float
        clock.now_ns += 12_345_678  # the reader works for a third of a period
    assert frame.times.pts == 2997


def test_late_reader_loses_frames_and_not_time() -> None:
    source, clock = paced("fps=25&seconds=2")
    source.open()
    begin_ns, pts = clock.now_ns, []
    for frame in source.frames():
        pts.append(frame.times.pts)
        assert frame.times.receive_ns == begin_ns + frame.times.pts * SECOND_NS // 25
        assert not frame.times.discontinuity
        if frame.times.pts == 2:
            clock.now_ns += 60_000_000  # half a period too late for the next: it is given
        if frame.times.pts == 5:
            clock.now_ns += 210_000_000  # five periods and a quarter
    assert pts == [0, 1, 2, 3, 4, 5, *range(10, 50)]


def test_reader_that_is_late_beyond_the_end_gets_no_more() -> None:
    source, clock = paced("fps=25&seconds=1")
    source.open()
    frames = source.frames()
    next(frames)
    clock.now_ns += 3 * SECOND_NS
    assert list(frames) == []


def test_close_wakes_the_wait_and_open_begins_again() -> None:
    source = SyntheticSource("synthetic:street?size=64x48&fps=1", paced=True)
    with pytest.raises(RuntimeError, match=r"frames\(\) before open\(\)"):
        next(source.frames())
    source.open()
    frames, rest = source.frames(), []
    assert next(frames).times.pts == 0
    reader = threading.Thread(target=lambda: rest.extend(frames))
    reader.start()
    source.close()
    source.close()
    reader.join(timeout=0.9)  # less than the period it would wait
    assert not reader.is_alive()
    assert rest == []
    source.open()
    assert next(source.frames()).times.pts == 0


# Options


def test_defaults() -> None:
    options = StreetOptions.parse("synthetic:street")
    assert options == StreetOptions(1, (1280, 720), Fraction(25), None, "static")
    assert options.frames is None


@pytest.mark.parametrize(
    ("text", "fps"),
    [
        ("25", Fraction(25)),
        ("12.5", Fraction(25, 2)),
        ("23.976", Fraction(24000, 1001)),
        ("59.94", Fraction(60000, 1001)),
        ("30000/1001", Fraction(30000, 1001)),
        ("120", Fraction(120)),
    ],
)
def test_fps(text: str, fps: Fraction) -> None:
    assert StreetOptions.parse(f"synthetic:street?fps={text}").fps == fps


@pytest.mark.parametrize(
    ("query", "message", "remedy"),
    [
        ("sede=1", "option must be one of seed, size, fps, seconds, camera, got 'sede'; "
                   "did you mean seed", "seed=1"),
        ("seed=-1", f"seed must be an int from 0 to {2**63 - 1}, got '-1'; use 1", "seed=1"),
        ("seed=9223372036854775808", "seed must be an int from 0", "seed=1"),
        ("seed=1&seed=2", "seed must be given once, got '1' and '2'; remove one", "seed=1"),
        ("size=720p", "size must be WIDTHxHEIGHT from 64x48 to 3840x2160, got '720p'; "
                      "use 1280x720", "size=1280x720"),
        ("size=63x48", "size must be WIDTHxHEIGHT", "size=64x48"),
        ("size=3840x2161", "size must be WIDTHxHEIGHT", "size=3840x2160"),
        ("fps=0.5", "fps must be a number from 1 to 120 such as 25, 29.97 or 30000/1001, "
                    "got '0.5'; use 25", "fps=25"),
        ("fps=nan", "fps must be a number from 1 to 120", "fps=25"),
        ("fps=", "fps must be a number from 1 to 120", "fps=25"),
        ("seconds=0", "seconds must be a number above 0, got '0'; leave it out", ""),
        ("camera=pam", "camera must be one of static, shake, pan, got 'pam'; did you mean pan",
         "camera=pan"),
    ],
)  # fmt: skip
def test_wrong_option_is_refused_and_the_remedy_works(
    query: str, message: str, remedy: str
) -> None:
    with pytest.raises(ConfigError, match=rf"^synthetic:street\?{query}: {message}"):
        SyntheticSource(f"synthetic:street?{query}", paced=False)
    SyntheticSource(f"synthetic:street?{remedy}", paced=False)


def test_unknown_scene_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"scene must be synthetic:street, got synthetic:rode; use"
    ):
        StreetOptions.parse("synthetic:rode?seed=1")
