"""Network cameras, played by a real RTSP server that is killed, frozen and replaced."""

from __future__ import annotations

import itertools
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import av
import pytest
from media import GOP, number_in, write_video
from rtsp import RtspServer

from streamer.errors import SourceError
from streamer.planes import Planes
from streamer.sources.base import SourceFrame
from streamer.sources.mediaclock import NS
from streamer.sources.options import SourceOptions
from streamer.sources.probe import probe
from streamer.sources.reader import Down, Event, Failed, SourceReader, Up
from streamer.sources.restamp import RestampedFrame
from streamer.sources.uri import open_source

FRAMES = 100
QUICK = SourceOptions(open_s=4.0, read_s=0.5)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("rtsp") / "clip.264", frames=FRAMES)


@pytest.fixture(scope="module")
def camera(clip: Path) -> Iterator[str]:
    """Address of a camera that nobody kills."""
    with RtspServer(clip) as server:
        yield server.url


def number(frame: SourceFrame) -> int:
    planes = Planes.empty(frame.width, frame.height)
    frame.write_to(planes)
    return number_in(planes.y)


def take(reader: SourceReader, frames: int) -> Iterator[Event]:
    """Give the reader's events until so many frames came."""
    for event in reader.events():
        yield event
        frames -= isinstance(event, RestampedFrame)
        if frames == 0:
            reader.stop()


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_pictures_come_whole_in_order_and_in_time(camera: str, transport: str) -> None:
    source = open_source(f"{camera}?transport={transport}")
    info = source.open()
    assert (info.width, info.height, info.codec, info.live) == (320, 240, "h264", True)
    frames = list(itertools.islice(source.frames(), 30))
    source.close()
    shown = [number(frame) for frame in frames]
    assert shown == [(shown[0] + n) % FRAMES for n in range(30)]
    seconds = [float(f.times.pts * f.times.time_base) for f in frames]
    assert [s - seconds[0] for s in seconds] == pytest.approx([n / 25 for n in range(30)], abs=0.01)
    now_ns, now_wall_ns = time.monotonic_ns(), time.time_ns()
    assert all(0 <= now_ns - f.times.receive_ns < 5 * NS for f in frames)
    assert all(0 <= now_wall_ns - f.times.capture_ns < 5 * NS for f in frames)


def test_joining_in_mid_gop_begins_with_a_clean_picture(camera: str) -> None:
    first = open_source(camera)
    first.open()
    others = first.frames()
    while number(next(others)) % GOP != 10:  # so the second joins in mid-GOP
        pass
    second = open_source(camera)
    second.open()
    frame = next(second.frames())
    second.close()
    first.close()
    assert number(frame) % GOP == 0


def test_b_frames_come_in_order(tmp_path: Path) -> None:
    with RtspServer(write_video(tmp_path / "b.mp4", frames=50, b_frames=2)) as server:
        source = open_source(server.url)
        source.open()
        shown = [number(frame) for frame in itertools.islice(source.frames(), 40)]
        source.close()
    assert shown == list(range(shown[0], shown[0] + 40))


def test_probe_sees_the_senders_clock(camera: str) -> None:
    found = probe(camera, duration_s=3.0)
    assert found.container == "rtsp"
    assert found.measured is not None
    if int(av.__version__.partition(".")[0]) >= 18:  # older ones keep it to themselves
        assert found.measured.wall_clock
    assert found.measured.gop_frames == GOP
    assert found.measured.fps == pytest.approx(25, rel=0.05)


def test_wrong_path_may_come_later(camera: str) -> None:
    with pytest.raises(SourceError, match="404 Not Found; check the path") as e:
        open_source(camera.replace("/stream", "/strm")).open()
    assert (e.value.reason, e.value.permanent) == ("not_found", False)


def test_wrong_password_is_for_good_and_is_never_shown(clip: Path) -> None:
    with RtspServer(clip, login="admin:s3cret@/x") as server:
        host = server.url.removeprefix("rtsp://")
        for login in ("", "admin:hunter2@"):
            with pytest.raises(SourceError, match=r"401 Unauthorized .*; check user and") as e:
                open_source(f"rtsp://{login}{host}").open()
            assert (e.value.reason, e.value.permanent) == ("auth", True)
            assert "hunter2" not in "".join(traceback.format_exception(e.value))
        events = list(SourceReader(lambda: open_source(f"rtsp://admin:hunter2@{host}")).events())
        assert [type(event) for event in events] == [Failed]

        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CAMERA_PASSWORD", "s3cret@/x")
            source = open_source("rtsp://admin:${CAMERA_PASSWORD}@" + host)
            assert source.open().width == 320
            source.close()


def test_frozen_camera_is_stalled_within_the_deadline(clip: Path) -> None:
    with RtspServer(clip) as server:
        source = open_source(server.url, options=QUICK)
        source.open()
        frames = source.frames()
        next(frames)
        server.freeze()
        frozen_at = time.monotonic()
        with pytest.raises(SourceError, match=r"no more data came|no good picture") as e:
            for _ in frames:
                pass
        assert (e.value.reason, e.value.permanent) == ("stalled", False)
        assert time.monotonic() - frozen_at < QUICK.read_s + 1.0
        source.close()


def test_camera_that_freezes_and_thaws_comes_back(clip: Path) -> None:
    with RtspServer(clip) as server:
        reader = SourceReader(
            lambda: open_source(server.url, options=QUICK),
            backoff_s=(0.2, 0.4),
            frame_deadline_s=0.2,
        )
        events: list[Event] = []
        states: set[str] = set()
        over = threading.Event()

        def watch() -> None:
            while not over.wait(0.02):
                states.add(reader.state)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        for event in take(reader, 20):
            events.append(event)
            if len(events) == 5:
                server.freeze()
            elif isinstance(event, Down):
                server.thaw()
        over.set()
        watcher.join()
    downs = [event for event in events if isinstance(event, Down)]
    assert {down.reason for down in downs} == {"stalled"}
    assert states >= {"connecting", "live", "stalled", "backing_off"}
    check_one_clock(events)


def test_camera_that_is_replaced_is_found_again(clip: Path) -> None:
    events: list[Event] = []
    with RtspServer(clip) as server, ExitStack() as later:
        reader = SourceReader(
            lambda: open_source(server.url, options=QUICK), backoff_s=(0.2, 0.4), max_failures=10
        )
        for event in take(reader, 20):
            events.append(event)
            if len(events) == 5:
                server.kill()
            elif isinstance(event, Down) and event.reason == "refused":
                later.enter_context(RtspServer(clip, port=server.port))
    reasons = [event.reason for event in events if isinstance(event, Down)]
    assert reasons[0] in ("ended", "stalled", "io")
    assert reasons[1] == "refused"
    assert reader.statistics().connections == 2
    check_one_clock(events)


def check_one_clock(events: list[Event]) -> None:
    """Time only rises; the gap is as long as it was; the joint is flagged."""
    ups = [n for n, event in enumerate(events) if isinstance(event, Up)]
    assert len(ups) == 2
    times = [event.times for event in events if isinstance(event, RestampedFrame)]
    assert all(a.pts < b.pts for a, b in itertools.pairwise(times))
    joints = [n for n, t in enumerate(times) if t.discontinuity]
    before = sum(isinstance(event, RestampedFrame) for event in events[: ups[1]])
    assert joints == [before]
    gap_s = (times[before].pts - times[before - 1].pts) * times[0].time_base
    passed_s = (times[before].receive_ns - times[before - 1].receive_ns) / NS
    assert float(gap_s) == pytest.approx(passed_s, abs=0.001)
    assert passed_s > 0.3
