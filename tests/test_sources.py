"""Every kind of URI, every way a source can be wrong; what becomes of its pictures and times."""

from __future__ import annotations

import itertools
import logging
import shutil
import socket
import threading
import time
import traceback
import wave
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import numpy as np
import pytest
from contracts.check_source import check_source
from media import GOP, access_units, number_in, write_video

from streamer.errors import ConfigError, SourceError
from streamer.planes import Planes
from streamer.sources.container import ContainerSource
from streamer.sources.hardware import DEVICE_FILES, why_not
from streamer.sources.mediaclock import NS, MediaClock
from streamer.sources.options import SourceOptions
from streamer.sources.picture import PictureFrame, matrix_of, write_picture
from streamer.sources.probe import probe
from streamer.sources.redact import redact, resolve_env
from streamer.sources.scheme import is_live
from streamer.sources.uri import open_source


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with plain.264, plain.mp4 and bframes.mp4, all 320x240, 25 fps."""
    folder = tmp_path_factory.mktemp("clips")
    write_video(folder / "plain.264", frames=60)
    write_video(folder / "plain.mp4", frames=60)
    write_video(folder / "bframes.mp4", frames=60, b_frames=2)
    return folder


def read(source: ContainerSource) -> list[PictureFrame]:
    """Open a source, keep all its frames, close it."""
    source.open()
    frames = list(source.frames())
    source.close()
    return frames


def file_source(path: Path, **options: object) -> ContainerSource:
    """Open a file with these options."""
    source = open_source(str(path), options=SourceOptions(**options))  # type: ignore[arg-type]
    assert isinstance(source, ContainerSource)
    return source


def numbers(frames: list[PictureFrame]) -> list[int]:
    """Frame numbers that the pictures show."""
    return [number_in(luma(frame)) for frame in frames]


def luma(frame: PictureFrame) -> np.ndarray:
    planes = Planes.empty(frame.width, frame.height)
    frame.write_to(planes)
    return planes.y


class TestRedact:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("rtsp://admin:hunter2@cam/1", "rtsp://***@cam/1"),
            ("open 'rtsp://admin:hunter2@cam' failed", "open 'rtsp://***@cam' failed"),
            ("RTSPS://admin:hunter2@cam:322/1", "RTSPS://***@cam:322/1"),
            ("rtsp://admin@cam/1", "rtsp://***@cam/1"),
            ("rtsp://admin:hun@ter2@cam/1", "rtsp://***@cam/1"),
            ("rtsp://admin:hun'ter2@cam/1", "rtsp://***@cam/1"),
            ("rtsp://admin:hun/ter2@cam/1", "rtsp://***@cam/1"),
            ("rtsp://admin:hun?t#er2@cam/1", "rtsp://***@cam/1"),
            (
                "http://cam/v?user=admin&password=hunter2&x=1",
                "http://cam/v?user=***&password=***&x=1",
            ),
            ("http://cam/v?ACCESS_TOKEN=hunter2", "http://cam/v?ACCESS_TOKEN=***"),
            ("GET /v?x=1&pwd=hunter2 HTTP/1.1", "GET /v?x=1&pwd=*** HTTP/1.1"),
            ("Authorization: Basic aHVudGVyMg==", "Authorization: Basic ***"),
            ("rtsp://a:hunter2@x and rtsp://b:hunter2@y", "rtsp://***@x and rtsp://***@y"),
            ("rtsp://cam:554/stream@1", "rtsp://cam:554/stream@1"),
            ("rtsp://cam/stream", "rtsp://cam/stream"),
            ("mail me@example.org", "mail me@example.org"),
            ("", ""),
        ],
    )
    def test_hides_credentials_and_nothing_else(self, text: str, expected: str) -> None:
        assert redact(text) == expected
        assert redact(redact(text)) == redact(text)

    def test_environment_is_expanded_and_a_password_is_encoded(self) -> None:
        values = {"PW": "p@ss/w:rd", "HOST": "cam"}
        assert resolve_env("rtsp://me:${PW}@${HOST}/1", values) == "rtsp://me:p%40ss%2Fw%3Ard@cam/1"
        assert resolve_env("/videos/${HOST}.mp4", values) == "/videos/cam.mp4"

    def test_variable_that_is_not_set_is_named_and_the_remedy_works(self) -> None:
        with pytest.raises(ConfigError, match=r"^rtsp://\*\*\*@cam: the environment variable 'PW'"):
            resolve_env("rtsp://me:${PW}@cam", {})
        assert resolve_env("rtsp://me:${PW}@cam", {"PW": "x"}) == "rtsp://me:x@cam"


class TestUri:
    @pytest.mark.parametrize(
        ("uri", "live"),
        [
            ("rtsp://cam/1", True),
            ("rtsps://cam/1", True),
            ("0", True),
            ("camera:1", True),
            ("/dev/video0", True),
            ("https://host/live.m3u8", True),
            ("https://host/clip.MP4?token=x", False),
            ("clip.mp4", False),
            ("file:///clip.mp4", False),
            ("frames/*.png", False),
            ("synthetic:street?seed=1", False),
        ],
    )
    def test_is_live(self, uri: str, live: bool) -> None:
        assert is_live(uri) is live

    def test_unknown_scheme_names_the_nearest(self) -> None:
        with pytest.raises(ConfigError, match=r"rstp://\*\*\*@cam/1: .*did you mean rtsp:"):
            open_source("rstp://me:pw@cam/1")
        with pytest.raises(ConfigError, match="unknown scheme 'gopher'; one of file, rtsp"):
            open_source("gopher://x")

    def test_missing_file_names_the_nearest_and_the_remedy_works(self, clips: Path) -> None:
        with pytest.raises(SourceError, match=r"no such file; did you mean (.*plain\.mp4)\?") as e:
            open_source(str(clips / "plan.mp4"))
        assert (e.value.reason, e.value.permanent) == ("not_found", True)
        open_source(str(clips / "plain.mp4")).open()

    def test_missing_folder_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match=r"folder .*nowhere does not exist either"):
            open_source(str(tmp_path / "nowhere" / "x.mp4"))

    def test_missing_camera_may_be_plugged_in_later(self) -> None:
        with pytest.raises(SourceError, match=r"camera:63: can't open: No such file") as e:
            open_source("camera:63").open()
        assert (e.value.reason, e.value.permanent) == ("not_found", False)

    def test_transport_must_be_one_of_two(self) -> None:
        with pytest.raises(ConfigError, match="transport must be tcp or udp, got 'tpc'"):
            open_source("rtsp://cam/1?transport=tpc")

    @pytest.mark.parametrize("name", ["a b.mp4", "a:b.mp4", "a%03d.mp4", "a%20b.mp4", "ä[1].mp4"])
    def test_odd_file_names(self, clips: Path, tmp_path: Path, name: str) -> None:
        path = tmp_path / name
        shutil.copy(clips / "plain.mp4", path)
        assert open_source(str(path)).open().width == 320
        assert open_source(path.as_uri()).open().width == 320

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"open_s": 0}, "open_s must be > 0, got 0"),
            ({"fps": float("nan")}, "fps must be > 0, got nan"),
            ({"threads": 0}, "threads must be 'auto' or 1..64, got 0"),
            ({"corrupt": "hide"}, "corrupt must be drop or show, got 'hide'"),
        ],
    )
    def test_wrong_options(self, options: dict[str, object], text: str) -> None:
        with pytest.raises(ConfigError, match=text):
            SourceOptions(**options)  # type: ignore[arg-type]

    def test_the_rendered_scene(self) -> None:
        source = open_source("synthetic:street?size=64x48&seconds=1")
        assert source.open().codec == "synthetic"
        source.close()


class TestNotAVideo:
    def test_empty_file(self, tmp_path: Path) -> None:
        path = tmp_path / "x.mp4"
        path.touch()
        with pytest.raises(SourceError, match=r"x\.mp4: the file is empty") as e:
            open_source(str(path))
        assert (e.value.reason, e.value.permanent) == ("corrupt", True)

    def test_noise(self, tmp_path: Path) -> None:
        path = tmp_path / "x.mp4"
        path.write_bytes(np.random.default_rng(0).bytes(5000))
        with pytest.raises(SourceError, match="no video that is known, or it is damaged") as e:
            open_source(str(path)).open()
        assert (e.value.reason, e.value.permanent) == ("corrupt", True)

    def test_cut_mp4(self, clips: Path, tmp_path: Path) -> None:
        path = tmp_path / "x.mp4"
        whole = (clips / "plain.mp4").read_bytes()
        path.write_bytes(whole[:40])  # before the index
        with pytest.raises(SourceError, match=r"x\.mp4: .*damaged"):
            open_source(str(path)).open()
        path.write_bytes(whole[: len(whole) // 2])  # in the pictures: what is there is read
        frames = read(file_source(path, threads=1))
        assert numbers(frames) == list(range(len(frames)))
        assert 20 < len(frames) < 40

    def test_sound_only(self, tmp_path: Path) -> None:
        path = tmp_path / "x.wav"
        with wave.open(str(path), "wb") as sound:
            sound.setnchannels(1)
            sound.setsampwidth(2)
            sound.setframerate(8000)
            sound.writeframes(bytes(8000))
        with pytest.raises(SourceError, match="no video stream in it, only audio") as e:
            open_source(str(path)).open()
        assert (e.value.reason, e.value.permanent) == ("codec", True)

    def test_no_size(self, clips: Path, tmp_path: Path) -> None:
        path = tmp_path / "x.ts"
        with av.open(str(clips / "plain.264")) as raw, av.open(str(path), "w") as cut:
            stream = cut.add_stream_from_template(raw.streams.video[0])
            for index, packet in enumerate(itertools.islice(raw.demux(video=0), 1, GOP)):
                packet.stream, packet.time_base = stream, Fraction(1, 25)
                packet.pts = packet.dts = index
                cut.mux(packet)
        with pytest.raises(SourceError, match=r"says no picture size \(0x0\)") as e:
            open_source(str(path)).open()
        assert e.value.reason == "codec"

    def test_frames_before_open(self, clips: Path) -> None:
        with pytest.raises(SourceError, match=r"not open; call open\(\) first"):
            next(open_source(str(clips / "plain.mp4")).frames())


class TestPictures:
    """A flat colour in each format, against its value in limited-range I420."""

    @pytest.mark.parametrize(
        ("name", "planes_in", "expected"),
        [
            ("yuv420p", (200, 90, 160), (200, 90, 160)),
            ("yuv422p", (200, 90, 160), (200, 90, 160)),
            ("yuv444p", (200, 90, 160), (200, 90, 160)),
            ("yuvj420p", (255, 128, 128), (235, 128, 128)),
            ("yuvj420p", (0, 128, 128), (16, 128, 128)),
            ("yuvj422p", (128, 255, 0), (126, 240, 16)),
            ("gray", (255,), (235, 128, 128)),
        ],
    )
    @pytest.mark.parametrize("size", [(64, 48), (51, 37)])
    def test_planar(
        self,
        name: str,
        planes_in: tuple[int, ...],
        expected: tuple[int, int, int],
        size: tuple[int, int],
    ) -> None:
        frame = av.VideoFrame(*size, name)
        for plane, value in zip(frame.planes, planes_in, strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        self._expect(frame, expected)

    def test_full_range_420_that_only_its_flag_tells(self) -> None:
        frame = av.VideoFrame(64, 48, "yuv420p")
        for plane, value in zip(frame.planes, (255, 128, 128), strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        frame.color_range = 2
        self._expect(frame, (235, 128, 128))

    @pytest.mark.parametrize("size", [(64, 48), (51, 37)])
    def test_nv12(self, size: tuple[int, int]) -> None:
        frame = av.VideoFrame(*size, "nv12")
        frame.planes[0].update(bytes([200]) * frame.planes[0].buffer_size)
        frame.planes[1].update(bytes([90, 160]) * (frame.planes[1].buffer_size // 2))
        self._expect(frame, (200, 90, 160))

    def test_ten_bits(self) -> None:
        frame = av.VideoFrame(64, 48, "yuv420p10le")
        for plane, value in zip(frame.planes, (800, 360, 640), strict=True):
            plane.update(np.full(plane.buffer_size // 2, value, "<u2").tobytes())
        self._expect(frame, (200, 90, 160))

    @pytest.mark.parametrize(
        ("rgb", "expected"),
        [
            ((255, 255, 255), (235, 128, 128)),
            ((255, 0, 0), (81, 90, 240)),
            ((0, 0, 0), (16, 128, 128)),
        ],
    )
    def test_rgb(self, rgb: tuple[int, int, int], expected: tuple[int, int, int]) -> None:
        array = np.broadcast_to(np.array(rgb, np.uint8), (48, 64, 3)).copy()
        self._expect(av.VideoFrame.from_ndarray(array, format="rgb24"), expected)

    def _expect(self, frame: av.VideoFrame, expected: tuple[int, int, int]) -> None:
        planes = Planes.empty(frame.width, frame.height)
        write_picture(frame, planes)
        for plane, value in zip((planes.y, planes.u, planes.v), expected, strict=True):
            assert np.abs(plane.astype(int) - value).max() <= 1

    def test_rows_of_padded_pictures_are_not_mixed_up(self) -> None:
        rng = np.random.default_rng(3)
        i420 = rng.integers(16, 235, (72, 52), dtype=np.uint8)
        frame = av.VideoFrame.from_ndarray(i420, format="yuv420p")
        assert frame.planes[0].line_size > 52
        planes = Planes.empty(52, 48)
        write_picture(frame, planes)
        np.testing.assert_array_equal(planes.y, i420[:48])
        np.testing.assert_array_equal(planes.u.ravel(), i420[48:60].ravel())
        np.testing.assert_array_equal(planes.v.ravel(), i420[60:].ravel())

    @pytest.mark.parametrize(
        ("colorspace", "name", "height", "matrix"),
        [
            (1, "yuv420p", 240, "bt709"),
            (6, "yuv420p", 1080, "bt601"),
            (2, "yuv420p", 1080, "bt709"),
            (2, "yuv420p", 576, "bt601"),
            (2, "rgb24", 1080, "bt601"),
        ],
    )
    def test_matrix(self, colorspace: int, name: str, height: int, matrix: str) -> None:
        assert matrix_of(colorspace, name, height) == matrix


class TestMediaClock:
    MS = Fraction(1, 1000)

    def stamps(self, clock: MediaClock, *pts: int | None) -> tuple[list[int], list[int]]:
        """PTS that come out, and which of them are flagged."""
        stamped = [clock.stamp(p, arrival_ns=0) for p in pts]
        return [p for p, _ in stamped], [n for n, (_, jumped) in enumerate(stamped) if jumped]

    def file_clock(self) -> MediaClock:
        return MediaClock(self.MS, fps=Fraction(25), live=False)

    def test_sane_times_are_left_alone(self) -> None:
        clock = self.file_clock()
        assert self.stamps(clock, -80, 0, 40, 5000) == ([-80, 0, 40, 5000], [])
        assert clock.statistics.repaired == clock.statistics.discontinuities == 0

    def test_missing_times_come_from_the_frame_rate(self) -> None:
        clock = self.file_clock()
        assert self.stamps(clock, None, None, 90, None) == ([0, 40, 90, 130], [])
        assert clock.statistics.synthesised == 3

    def test_restart_goes_on_and_is_flagged_once(self) -> None:
        clock = self.file_clock()
        assert self.stamps(clock, 9000, 9040, 0, 40) == ([9000, 9040, 9080, 9120], [2])
        assert clock.statistics.discontinuities == 1

    def test_jump_forward_is_taken_out(self) -> None:
        clock = self.file_clock()
        assert self.stamps(clock, 0, 40, 50_000, 50_040) == ([0, 40, 80, 120], [2])

    def test_small_step_back_is_straightened(self) -> None:
        clock = self.file_clock()
        assert self.stamps(clock, 0, 40, 40, 30, 80) == ([0, 40, 41, 42, 80], [])
        assert clock.statistics.repaired == 2

    def test_live_gap_that_really_passed_is_no_jump(self) -> None:
        clock = MediaClock(self.MS, fps=Fraction(25), live=True)
        assert clock.stamp(0, arrival_ns=0) == (0, False)
        assert clock.stamp(20_000, arrival_ns=20 * NS) == (20_000, False)
        assert clock.stamp(0, arrival_ns=23 * NS) == (23_000, True)  # restarted after 3 s
        assert clock.stamp(40, arrival_ns=23 * NS) == (23_040, False)


class TestDecoding:
    def test_contract(self, clips: Path) -> None:
        check_source(lambda: open_source(str(clips / "bframes.mp4")))
        check_source(lambda: open_source(str(clips / "plain.264")))
        check_source(lambda: open_source("synthetic:street?size=64x48&seconds=1"))
        check_source(lambda: open_source(str(clips / "plain.mp4"), paced=True))

    def test_file(self, clips: Path) -> None:
        source = file_source(clips / "plain.mp4")
        info = source.open()
        assert (info.width, info.height, info.codec) == (320, 240, "h264")
        assert (info.fps_declared, info.frames_declared, info.live) == (25.0, 60, False)
        frames = list(source.frames())
        assert numbers(frames) == list(range(60))
        step = Fraction(1, 25) / frames[0].times.time_base
        assert [f.times.pts for f in frames] == [n * step for n in range(60)]
        assert source.statistics.decoded == source.statistics.packets == 60
        assert source.statistics.corrupt == 0
        assert source.statistics.bytes > 0

    @pytest.mark.parametrize("threads", [1, 4, "auto"])
    def test_b_frames_come_in_order(self, clips: Path, threads: int | str) -> None:
        source = file_source(clips / "bframes.mp4", threads=threads)
        assert numbers(read(source)) == list(range(60))
        assert source.statistics.clock.repaired == 0

    def test_raw_stream_gets_times_from_the_frame_rate(self, clips: Path) -> None:
        source = file_source(clips / "plain.264", fps=50.0)
        assert source.open().fps_declared == 50.0
        frames = list(source.frames())
        seconds = [float(f.times.pts * f.times.time_base) for f in frames]
        assert seconds == pytest.approx([n / 50 for n in range(60)])
        assert source.statistics.clock.synthesised == 60
        assert not any(f.times.discontinuity for f in frames)

    def test_stream_that_begins_in_mid_gop_begins_clean(self, clips: Path, tmp_path: Path) -> None:
        path = tmp_path / "cut.264"
        path.write_bytes(b"".join(access_units(clips / "plain.264")[7:]))
        # The parameters are repeated with each key frame only; the size is then found behind it.
        source = file_source(path)
        assert numbers(read(source)) == list(range(GOP, 60))
        assert source.statistics.skipped == GOP - 7

    def test_size_may_change_in_mid_stream(self, clips: Path, tmp_path: Path) -> None:
        write_video(tmp_path / "small.264", frames=10, size=(160, 120))
        path = tmp_path / "both.264"
        path.write_bytes((clips / "plain.264").read_bytes() + (tmp_path / "small.264").read_bytes())
        frames = read(file_source(path, threads=1))
        assert [(f.width, f.height) for f in frames] == [(320, 240)] * 60 + [(160, 120)] * 10
        assert numbers(frames[60:]) == list(range(10))

    def test_times_that_restart_are_repaired(self, tmp_path: Path) -> None:
        part = write_video(tmp_path / "part.ts", frames=60).read_bytes()
        path = tmp_path / "twice.ts"
        path.write_bytes(part + part)
        source = file_source(path, threads=1)
        frames = read(source)
        pts = [f.times.pts for f in frames]
        assert len(frames) == 120
        assert all(later > earlier for earlier, later in itertools.pairwise(pts))
        assert [n for n, f in enumerate(frames) if f.times.discontinuity] == [60]
        assert (pts[-1] - pts[0]) * frames[0].times.time_base == pytest.approx(119 / 25)

    def test_hole_in_a_file_is_survived_and_counted(self, clips: Path, tmp_path: Path) -> None:
        units = access_units(clips / "plain.264")
        units[30] = units[30][:20] + bytes(len(units[30]) - 20)
        path = tmp_path / "hole.264"
        path.write_bytes(b"".join(units))
        source = file_source(path, threads=1)
        frames = read(source)
        assert source.statistics.corrupt >= 1
        assert numbers(frames)[:30] == list(range(30))
        assert numbers(frames)[-10:] == list(range(50, 60))
        assert len(frames) == 60 - source.statistics.corrupt

    def test_damaged_pictures_are_shown_if_wanted(self, data_dir: Path) -> None:
        path = data_dir / "streams" / "Error_I_P.264"
        dropped, shown = file_source(path), file_source(path, corrupt="show")
        assert len(read(dropped)) < len(read(shown))
        assert dropped.statistics.corrupt == shown.statistics.corrupt == 5

    @pytest.mark.parametrize(
        ("name", "frames", "skipped"),
        [
            ("BA1_FT_C", 299, 0),
            ("BA_MW_D", 100, 0),
            ("BA_MW_D_IDR_LOST", 70, 27),  # the first GOP has no key frame
            ("BA_MW_D_P_LOST", 99, 0),
        ],
    )
    def test_conformance_and_lossy_streams(
        self, data_dir: Path, name: str, frames: int, skipped: int
    ) -> None:
        source = file_source(data_dir / "streams" / f"{name}.264", threads=1)
        assert len(read(source)) == frames
        assert source.statistics.skipped == skipped
        assert source.statistics.packets == frames + skipped

    def test_first_clean_picture_is_the_intact_streams(self, data_dir: Path) -> None:
        lost = read(file_source(data_dir / "streams" / "BA_MW_D_IDR_LOST.264"))
        intact = read(file_source(data_dir / "streams" / "BA_MW_D.264"))
        np.testing.assert_array_equal(luma(lost[0]), luma(intact[30]))
        np.testing.assert_array_equal(luma(lost[-1]), luma(intact[-1]))

    def test_source_without_a_good_picture_is_given_up(self, clips: Path, tmp_path: Path) -> None:
        units = access_units(clips / "plain.264")
        noise = np.random.default_rng(5)
        damaged = [u[:8] + noise.bytes(len(u) - 8) for u in units[1:] * 2]
        path = tmp_path / "noise.264"
        path.write_bytes(units[0] + b"".join(damaged))
        source = file_source(path, threads=1, corrupt_after_s=1.0)
        source.open()
        with pytest.raises(SourceError, match=r"no good picture in the last 26 packets") as e:
            list(source.frames())
        assert (e.value.reason, e.value.permanent) == ("corrupt", True)

    def test_close_from_another_thread_ends_the_frames(self, clips: Path) -> None:
        source = file_source(clips / "plain.mp4")
        source.open()
        frames = source.frames()
        next(frames)
        source.close()
        assert list(frames) == []

    def test_hardware_that_is_not_there_falls_back(
        self, clips: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING):
            frames = read(file_source(clips / "plain.mp4", hwaccel="vaapi"))
        assert numbers(frames) == list(range(60))
        reason = why_not("vaapi")
        assert reason is None or f"no vaapi decoding: {reason}; decoding in" in caplog.text
        with pytest.raises(ConfigError, match=r"hwaccel must be .* one of cuda, .* 'coda'"):
            file_source(clips / "plain.mp4", hwaccel="coda").open()
        assert len(read(file_source(clips / "plain.mp4", hwaccel="auto"))) == 60

    def test_hardware_that_does_not_work_falls_back(
        self, clips: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if why_not("cuda") is None:
            pytest.skip("the device that must fail here works")
        monkeypatch.setitem(DEVICE_FILES, "cuda", ("/dev/null",))
        assert numbers(read(file_source(clips / "plain.mp4", hwaccel="cuda"))) == list(range(60))
        assert "in software" in caplog.text

    def test_paced_file_keeps_the_time_of_its_pictures(self, tmp_path: Path) -> None:
        path = write_video(tmp_path / "fast.mp4", frames=30, fps=200)
        source = open_source(str(path), paced=True)
        assert source.open().live
        begin_ns = time.monotonic_ns()
        times = [frame.times for frame in source.frames()]
        assert time.monotonic_ns() - begin_ns >= 29 * NS // 200
        assert [t.receive_ns - times[0].receive_ns for t in times] == [
            n * NS // 200 for n in range(30)
        ]
        assert [t.capture_ns - times[0].capture_ns for t in times] == [
            n * NS // 200 for n in range(30)
        ]

    def test_paced_wait_ends_at_close(self, tmp_path: Path) -> None:
        source = open_source(str(write_video(tmp_path / "slow.mp4", frames=3, fps=1)), paced=True)
        source.open()
        frames = source.frames()
        next(frames)
        threading.Timer(0.05, source.close).start()
        begin = time.monotonic()
        assert list(frames) == []
        assert time.monotonic() - begin < 0.9


class TestImages:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        for number in (1, 2, 10):
            array = np.full((48, 64, 3), number * 20, np.uint8)
            av.VideoFrame.from_ndarray(array, format="rgb24").save(
                str(tmp_path / f"frame{number}.png")
            )
        (tmp_path / "notes.txt").write_text("no picture")
        return tmp_path

    def test_natural_order_and_rate(self, folder: Path) -> None:
        source = open_source(str(folder), options=SourceOptions(fps=5))
        info = source.open()
        assert (info.width, info.height, info.frames_declared, info.fps_declared) == (
            64,
            48,
            3,
            5.0,
        )
        check_source(lambda: open_source(str(folder)))
        brightness, seconds = [], []
        for frame in source.frames():
            planes = Planes.empty(64, 48)
            frame.write_to(planes)
            brightness.append(float(planes.y.mean()))
            seconds.append(float(frame.times.pts * frame.times.time_base))
        assert brightness == sorted(brightness)
        assert seconds == pytest.approx([0, 0.2, 0.4])

    def test_glob_and_single_picture(self, folder: Path) -> None:
        assert open_source(str(folder / "frame1*.png")).open().frames_declared == 2
        assert open_source(str(folder / "frame2.png")).open().frames_declared == 1

    def test_damaged_picture_is_left_out(
        self, folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (folder / "frame2.png").write_bytes(b"\x89PNG\r\n\x1a\n")
        source = open_source(str(folder))
        source.open()
        assert [frame.times.pts for frame in source.frames()] == [0, 2]
        assert "frame2.png: no picture that can be decoded; left out" in caplog.text

    def test_folder_without_pictures(self, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match=r"no pictures there; wanted are .*\.png") as e:
            open_source(str(tmp_path))
        assert (e.value.reason, e.value.permanent) == ("not_found", True)

    def test_only_damaged_pictures(self, tmp_path: Path) -> None:
        (tmp_path / "x.jpg").write_bytes(b"no")
        with pytest.raises(SourceError, match="none of its 1 pictures can be decoded"):
            open_source(str(tmp_path)).open()

    def test_real_photographs(self, data_dir: Path) -> None:
        source = open_source(str(data_dir / "davis" / "bmx-trees" / "0000*.jpg"))
        assert source.open().frames_declared == 10
        assert len(list(source.frames())) == 10


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A server that accepts and then says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def web(clips: Path) -> Iterator[str]:
    """Address of an HTTP server of the clips; /secret asks for a password, /gone is not there."""

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/secret"):
                self.send_error(401)
            elif self.path.startswith("/forbidden"):
                self.send_error(403)
            elif self.path.startswith("/broken"):
                self.send_error(500)
            else:
                super().do_GET()

        def log_message(self, *arguments: object) -> None:
            pass

    handler = partial(Handler, directory=str(clips))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


class TestNetwork:
    FAST = SourceOptions(open_s=0.4, read_s=0.4)

    @pytest.mark.parametrize("scheme", ["rtsp", "rtsps", "http", "https"])
    def test_silent_server_costs_no_more_than_the_deadline(
        self, silent_port: int, scheme: str
    ) -> None:
        source = open_source(f"{scheme}://me:hunter2@127.0.0.1:{silent_port}/1", options=self.FAST)
        begin = time.monotonic()
        with pytest.raises(SourceError, match=r"no answer within 0\.2 s") as e:
            source.open()
        assert time.monotonic() - begin < 1.0
        assert (e.value.reason, e.value.permanent) == ("timeout", False)
        assert "hunter2" not in "".join(traceback.format_exception(e.value))

    @pytest.mark.parametrize("scheme", ["rtsp", "rtsps", "http", "https"])
    def test_refused_and_no_password_in_any_text(
        self, scheme: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        source = open_source(f"{scheme}://me:hunter2@127.0.0.1:{port}/1?password=hunter2")
        with caplog.at_level(logging.DEBUG), pytest.raises(SourceError, match="refused") as e:
            source.open()
        assert (e.value.reason, e.value.permanent) == ("refused", False)
        for text in (str(e.value), "".join(traceback.format_exception(e.value)), caplog.text):
            assert "hunter2" not in text

    def test_unknown_host(self) -> None:
        with pytest.raises(SourceError, match="host name") as e:
            open_source("rtsp://me:hunter2@no-such-host.invalid/1").open()
        assert (e.value.reason, e.value.permanent) == ("not_found", False)
        assert "hunter2" not in str(e.value)

    @pytest.mark.parametrize(
        ("path", "reason", "permanent"),
        [
            ("secret.mp4", "auth", True),
            ("forbidden.mp4", "auth", True),
            ("gone.mp4", "not_found", False),
            ("broken.mp4", "io", False),
        ],
    )
    def test_what_a_web_server_answers(
        self, web: str, path: str, reason: str, permanent: bool
    ) -> None:
        with pytest.raises(SourceError, match=f"{path}: can't open") as e:
            open_source(f"http://{web}/{path}").open()
        assert (e.value.reason, e.value.permanent) == (reason, permanent)

    def test_tls_against_a_port_without(self, web: str) -> None:
        with pytest.raises(SourceError, match="check that the port speaks TLS") as e:
            open_source(f"https://{web}/plain.mp4").open()
        assert e.value.reason == "tls"

    def test_file_over_http_is_a_file(self, web: str) -> None:
        source = open_source(f"http://{web}/plain.mp4")
        assert isinstance(source, ContainerSource)
        assert not source.open().live
        assert len(list(source.frames())) == 60
        source.close()

    def test_hls(self, web: str, clips: Path) -> None:
        options = {"hls_time": "1", "hls_list_size": "0"}
        with (
            av.open(str(clips / "plain.264")) as raw,
            av.open(str(clips / "list.m3u8"), "w", format="hls", options=options) as hls,
        ):
            stream = hls.add_stream_from_template(raw.streams.video[0])
            for index, packet in enumerate(raw.demux(video=0)):
                if packet.size:
                    packet.stream = stream
                    packet.time_base = Fraction(1, 25)
                    packet.pts = packet.dts = index
                    hls.mux(packet)
        source = open_source(f"http://{web}/list.m3u8")
        assert isinstance(source, ContainerSource)
        info = source.open()
        frames = list(source.frames())
        source.close()
        assert (info.width, info.live) == (320, False)  # its list has an end
        assert numbers(frames) == list(range(60))


class TestProbe:
    def test_what_is_measured_agrees_with_what_was_encoded(self, clips: Path) -> None:
        found = probe(str(clips / "bframes.mp4"))
        assert (found.info.codec, found.pixel_format, found.b_frames) == ("h264", "yuv420p", True)
        assert found.start_pts == 0
        assert found.duration_s == pytest.approx(2.4)
        assert found.audio == ()
        measured = found.measured
        assert measured is not None
        assert (measured.packets, measured.key_frames) == (60, 3)
        assert (measured.gop_frames, measured.gop_frames_longest) == (GOP, GOP)
        assert measured.fps == pytest.approx(25)
        size_bits = 8 * (clips / "bframes.mp4").stat().st_size
        assert measured.bit_rate_bps == pytest.approx(size_bits / 2.4, rel=0.1)
        assert not measured.wall_clock
        assert {d.kind for d in found.hardware} >= {"cuda"}

    def test_no_b_frames_and_no_times(self, clips: Path) -> None:
        found = probe(str(clips / "plain.264"))
        assert found.b_frames is False
        assert found.measured is not None
        assert (found.measured.fps, found.measured.duration_s) == (None, None)
        assert found.measured.gop_frames == GOP

    def test_sound_is_named(self, data_dir: Path) -> None:
        found = probe(str(data_dir / "video" / "walking_crowd_720p.mp4"))
        assert found.audio == ("aac",)
        assert found.info.matrix == "bt709"

    def test_what_libav_does_not_read(self) -> None:
        found = probe("synthetic:street?size=64x48&seconds=1")
        assert (found.info.width, found.container, found.measured) == (64, None, None)
