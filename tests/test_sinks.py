"""Files that the writers make, read back; and what happens when disk or process fail."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import ROOT, missing
from contracts.check_writer import START_UTC_NS, check_writer, decode, paint, times_at

from streamer.errors import ConfigError, SinkError
from streamer.planes import Planes
from streamer.sinks.base import (
    Canvas,
    DiskLow,
    PictureResized,
    RecordingFailed,
    RecordingResumed,
    SegmentEnded,
    SegmentStarted,
    TimelineJoined,
)
from streamer.sinks.encoder import WriterOptions, available_codecs
from streamer.sinks.mp4 import Mp4Writer
from streamer.sinks.recover import recover
from streamer.sinks.segments import SegmentRecorder
from streamer.sinks.single import SingleFile

LIVE = WriterOptions(live=True, fps=25)
TICK = Fraction(1, 1000)


@pytest.fixture
def codec(request):
    """A codec, if this build of PyAV can write it."""
    if request.param not in available_codecs():
        missing(f"this build of PyAV can't write {request.param}")
    return request.param


@pytest.fixture
def small_disk(tmp_path):
    """A disk of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        missing("a tmpfs can't be mounted here; run as root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def noise(planes: Planes, number: int) -> None:
    """Make a picture that can't be compressed."""
    planes.fill(128)
    planes.y[:] = np.random.default_rng(number).integers(16, 235, planes.y.shape, np.uint8)


def write(writer, pts_ms, *, size=(160, 96), draw=paint, discontinuity=False):
    """Write one frame."""
    canvas = writer.blank(*size)
    draw(canvas.planes, pts_ms // 40)
    return writer.write(canvas, times_at(pts_ms, TICK, discontinuity=discontinuity))


def write_until_full(writer):
    """Write a minute of noise, more than a small disk takes."""
    for pts_ms in range(0, 60_000, 40):
        write(writer, pts_ms, size=(320, 192), draw=noise)


# Every writer


@pytest.mark.parametrize("live", [True, False], ids=["live", "file"])
@pytest.mark.parametrize("codec", ["h264", "hevc", "av1"], indirect=True)
def test_mp4_writer_keeps_pictures_and_times(tmp_path, codec, live):
    path = tmp_path / "out.mp4"
    options = WriterOptions(live=live, codec=codec, fps=25)
    check_writer(lambda: Mp4Writer(path, options, width=160, height=96), lambda: [path])


def test_single_file_keeps_pictures_and_times(tmp_path):
    path = tmp_path / "out.mp4"
    check_writer(lambda: SingleFile(path, WriterOptions(live=False)), lambda: [path])


def test_segments_keep_pictures_and_times(tmp_path):
    check_writer(
        lambda: SegmentRecorder(tmp_path, "gate", LIVE, segment_s=0.4, min_free_mb=1),
        lambda: sorted(tmp_path.glob("gate/*/*.mp4")),
    )
    assert len(list(tmp_path.glob("gate/*/*.mp4"))) == 4


# One MP4 file


def test_live_frames_reach_the_file_within_half_a_second(tmp_path):
    for codec in available_codecs():
        for step_ms in (40, 200):
            options = WriterOptions(live=True, codec=codec, fps=1000 / step_ms)
            path = tmp_path / f"{codec}{step_ms}.mp4"
            with Mp4Writer(path, options, width=160, height=96) as writer:
                for pts_ms in range(0, 3000, step_ms):
                    write(writer, pts_ms)
                    assert pts_ms / 1000 - writer.statistics.flushed_s <= 0.5
            done = writer.statistics
            assert writer.finished
            assert done.frames == done.frames_flushed == 3000 // step_ms
            assert done.flushed_s == pytest.approx(3.0)
            assert done.size_bytes == path.stat().st_size
            assert done.encode_ms > 0


@pytest.mark.parametrize("codec", ["h264", "hevc", "av1"], indirect=True)
def test_odd_sides_are_padded_by_the_last_column_and_row(tmp_path, codec):
    path = tmp_path / "odd.mp4"
    options = WriterOptions(live=True, codec=codec, crf=10)
    with Mp4Writer(path, options, width=161, height=97) as writer:
        canvas = writer.blank()
        assert canvas.planes.y.shape == (97, 161)
        canvas.planes.fill(40)
        canvas.planes.y[:, -9:] = 200
        canvas.planes.y[-9:] = 120
        writer.write(canvas, times_at(0, TICK))
    _, (frame,) = decode(path)
    luma = frame.to_ndarray(format="yuv420p")[:98].astype(int)
    assert luma.shape == (98, 162)
    assert np.abs(luma[:80, -4:] - 200).max() < 16
    assert np.abs(luma[-4:, :140] - 120).max() < 16


@pytest.mark.parametrize(("matrix", "number"), [("bt601", 6), ("bt709", 1)])
def test_colours_and_start_are_in_the_file(tmp_path, matrix, number):
    path = tmp_path / "out.mp4"
    options = WriterOptions(live=True, matrix=matrix)
    with Mp4Writer(path, options, width=64, height=64, start_utc_ns=START_UTC_NS) as writer:
        write(writer, 0, size=(64, 64))
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert container.metadata["creation_time"].startswith("2026-11-21T10:15:30")
        assert container.metadata["comment"] == "start_utc=2026-11-21T10:15:30.123456789Z"
        assert container.streams.video[0].time_base == Fraction(1, 90000)
        next(container.decode(video=0))
        assert (context.color_range, context.colorspace) == (1, number)
        assert (context.color_primaries, context.color_trc) == (number, number)


@pytest.mark.parametrize("live", [True, False], ids=["live", "file"])
def test_a_real_scene_is_kept_well(tmp_path, data_dir, live):
    options = WriterOptions(live=live, fps=25)
    source = []
    with (
        av.open(str(data_dir / "video" / "walking_crowd_720p.mp4")) as container,
        Mp4Writer(tmp_path / "out.mp4", options, width=1280, height=720) as writer,
    ):
        for frame in itertools.islice(container.decode(video=0), 26):
            picture = frame.to_ndarray(format="yuv420p")
            source.append(picture[:720])
            canvas = writer.blank()
            canvas.planes.copy_from(Planes.from_buffer(picture.tobytes(), 1280, 720))
            writer.write(canvas, times_at(frame.pts, frame.time_base))
    times, frames = decode(writer.path)
    assert times == pytest.approx([n / 25 for n in range(26)], abs=1e-3)
    for before, after in zip(source, frames, strict=True):
        error = before.astype(float) - after.to_ndarray(format="yuv420p")[:720]
        assert 10 * np.log10(255**2 / np.square(error).mean()) > 36


def test_bit_rate_is_kept(tmp_path):
    sizes = []
    for kbps in (100, 400):
        options = WriterOptions(live=True, bitrate_kbps=kbps, fps=25)
        with Mp4Writer(tmp_path / f"{kbps}.mp4", options, width=320, height=192) as writer:
            for pts_ms in range(0, 4000, 40):
                write(writer, pts_ms, size=(320, 192), draw=noise)
        sizes.append(writer.statistics.size_bytes)
    assert 3 < sizes[1] / sizes[0] < 5


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"codec": "vp9"}, r"codec must be one that .*\(h264, .*\), got 'vp9'"),
        ({"crf": 52}, r"crf must be 0\.\.51 for h264, got 52"),
        ({"bitrate_kbps": 0}, "bitrate_kbps must be at least 1, got 0"),
        ({"crf": 20, "bitrate_kbps": 500}, "crf and bitrate_kbps exclude each other"),
        ({"threads": -1}, "threads must be 0 .* or more, got -1"),
        ({"matrix": "bt2020"}, "matrix must be one of bt601, bt709, got 'bt2020'"),
        ({"preset": "warp"}, "the encoder refuses 160x96 .*preset='warp'"),
        ({"preset": "warp", "codec": "hevc"}, "the encoder refuses 160x96"),
    ],
)
def test_wrong_options_are_refused_and_write_nothing(tmp_path, change, match):
    path = tmp_path / "out.mp4"
    options = WriterOptions(**({"live": True} | change))
    with pytest.raises(ConfigError, match=match):
        Mp4Writer(path, options, width=160, height=96)
    assert not path.exists()


def test_codecs_that_the_build_lacks_are_not_offered(tmp_path, monkeypatch):
    monkeypatch.setattr(av, "codecs_available", {"libx264"})
    with pytest.raises(ConfigError, match=r"PyAV writes \(h264\), got 'hevc'"):
        WriterOptions(live=True, codec="hevc").check()
    WriterOptions(live=True, codec="h264").check()


def test_paths_that_cannot_be_written_are_refused(tmp_path):
    there = tmp_path / "there.mp4"
    there.write_bytes(b"keep me")
    for path, match in (
        (tmp_path / "no" / "x.mp4", r"x\.mp4: No such file .*nothing was written; make the folder"),
        (there / "x.mp4", "Not a directory.* choose another folder"),
        (tmp_path, "is a folder|File exists|Is a directory"),
        (there, "File exists.* choose another name, or allow overwriting"),
    ):
        with pytest.raises(SinkError, match=match):
            Mp4Writer(path, LIVE, width=160, height=96)
    assert there.read_bytes() == b"keep me"
    with Mp4Writer(there, LIVE, width=160, height=96, overwrite=True) as writer:
        write(writer, 0)
    assert len(decode(there)[0]) == 1


def test_wrong_frames_are_refused_and_the_file_goes_on(tmp_path):
    with Mp4Writer(tmp_path / "out.mp4", LIVE, width=160, height=96) as writer:
        write(writer, 100)
        with pytest.raises(ValueError, match="canvas must be 160x96, got 64x64"):
            write(writer, 140, size=(64, 64))
        with pytest.raises(ValueError, match="pts must rise, got 100 after 100"):
            write(writer, 100)
        write(writer, 140)
    assert decode(writer.path)[0] == pytest.approx([0, 0.04])


def test_frames_closer_than_the_file_can_tell_are_kept_apart(tmp_path):
    with Mp4Writer(tmp_path / "out.mp4", LIVE, width=64, height=64) as writer:
        for pts in (0, 1, 2, 40_000):
            canvas = writer.blank()
            paint(canvas.planes, pts)
            writer.write(canvas, times_at(pts, Fraction(1, 10**6)))
    times, _ = decode(writer.path)
    assert times == pytest.approx([0, 0, 0, 0.04], abs=1e-4)
    assert len(set(times)) == 4


def test_canvas_of_foreign_planes_is_copied(tmp_path):
    planes = Planes.empty(64, 64)
    planes.fill(90)
    with Mp4Writer(tmp_path / "out.mp4", LIVE, width=64, height=64) as writer:
        writer.write(Canvas(planes), times_at(0, TICK))
    _, (frame,) = decode(writer.path)
    assert abs(frame.to_ndarray(format="yuv420p")[:64].mean() - 90) < 2


def test_file_without_frames_is_closed_quietly(tmp_path):
    with Mp4Writer(tmp_path / "out.mp4", LIVE, width=64, height=64) as writer:
        pass
    assert writer.statistics.frames == 0


# Killed in mid-write

CHILD = """
import sys
from fractions import Fraction
from pathlib import Path
sys.path.insert(0, "tests")
from contracts.check_writer import paint, times_at
from streamer.sinks.encoder import WriterOptions
from streamer.sinks.segments import SegmentRecorder
fps, codec = int(sys.argv[2]), sys.argv[3]
options = WriterOptions(live=True, fps=fps, codec=codec)
recorder = SegmentRecorder(Path(sys.argv[1]), "gate", options, segment_s=1e6, min_free_mb=1)
for number in range(100_000):
    canvas = recorder.blank(320, 180)
    paint(canvas.planes, number)
    recorder.write(canvas, times_at(number, Fraction(1, fps)))
    print((number + 1) / fps, flush=True)
"""


def kill_a_recorder(folder: Path, *, fps: int, codec: str = "h264", after_s: float = 4.3) -> float:
    """Record in a child, kill it, and give the media time up to which it had written."""
    command = [sys.executable, "-c", CHILD, str(folder), str(fps), codec]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:
        assert child.stdout is not None
        for line in child.stdout:
            written_s = float(line)
            if written_s >= after_s:
                os.kill(child.pid, signal.SIGKILL)
                break
        for line in child.stdout:  # what it wrote before the signal came
            written_s = float(line) if line.endswith("\n") else written_s
    assert child.returncode == -signal.SIGKILL
    return written_s


@pytest.mark.parametrize(
    ("fps", "codec"), [(25, "h264"), (5, "h264"), (25, "hevc"), (25, "av1")], indirect=["codec"]
)
def test_killed_recording_plays_to_its_last_second(tmp_path, fps, codec):
    written_s = kill_a_recorder(tmp_path, fps=fps, codec=codec)
    (path,) = tmp_path.glob("gate/*/*.mp4")
    times, _ = decode(path)
    assert times == pytest.approx([n / fps for n in range(len(times))], abs=1e-3)
    assert written_s - 0.75 < times[-1] + 1 / fps <= written_s + 1 / fps


def test_recover_reports_a_killed_segment_and_cuts_its_half_end_off(tmp_path):
    kill_a_recorder(tmp_path, fps=25)
    (path,) = tmp_path.glob("gate/*/*.mp4")
    whole = path.read_bytes()
    times, _ = decode(path)
    path.write_bytes(whole + whole[whole.rindex(b"moof") - 4 :][:-100])  # half of one more part
    (found,) = recover(tmp_path)
    assert found.path == path
    assert found.frames == len(times)
    assert found.playable_s == pytest.approx(len(times) / 25)
    assert path.read_bytes() == whole


def test_recover_leaves_finished_running_and_absent_recordings_alone(tmp_path):
    assert recover(tmp_path / "absent") == []
    recorder = SegmentRecorder(tmp_path, "gate", LIVE, min_free_mb=1)
    for pts_ms in range(0, 1000, 40):
        write(recorder, pts_ms)
    assert recover(tmp_path) == []  # it is being written
    recorder.close()
    assert recover(tmp_path) == []  # it is finished


def test_recover_reports_a_recorder_that_died_before_its_first_part(tmp_path):
    path = tmp_path / "gate" / "2026-11-21" / "gate_20261121T101530.123Z.mp4"
    path.parent.mkdir(parents=True)
    path.touch()
    (found,) = recover(tmp_path)
    assert (found.playable_s, found.frames) == (0.0, 0)
    path.write_bytes(b"\0\0\0\x10ftypisom\0\0\0\0")
    (found,) = recover(tmp_path)
    assert (found.playable_s, found.frames) == (0.0, 0)


# Disk full


def test_full_disk_is_told_once_and_what_was_flushed_plays(small_disk):
    path = small_disk / "out.mp4"
    options = WriterOptions(live=True, bitrate_kbps=8000, fps=25)
    writer = Mp4Writer(path, options, width=320, height=192)
    with pytest.raises(
        SinkError, match=r"out\.mp4: No space left .*; \d\.\d s are saved and play; free some"
    ):
        write_until_full(writer)
    with pytest.raises(SinkError, match="broke off"):
        write(writer, 60_000, size=(320, 192))
    writer.close()
    writer.close()
    assert not writer.finished
    done = writer.statistics
    times, _ = decode(path)
    assert len(times) == done.frames_flushed > 0
    assert done.frames - done.frames_flushed <= 13
    assert times[-1] + 0.04 == pytest.approx(done.flushed_s)
    assert path.stat().st_size == done.size_bytes


def test_disk_full_while_closing_is_told(small_disk):
    path = small_disk / "out.mp4"
    writer = Mp4Writer(path, WriterOptions(live=False), width=320, height=192)
    (small_disk / "ballast").write_bytes(bytes(900_000))
    for pts_ms in range(0, 400, 40):
        write(writer, pts_ms, size=(320, 192), draw=noise)
    with pytest.raises(SinkError, match=r"No space left .*; 0\.0 s are saved"):
        writer.close()
    writer.close()
    assert not writer.finished


def test_recorder_outlives_a_full_disk_and_counts_what_it_lost(small_disk):
    now_s = 0.0
    options = WriterOptions(live=True, bitrate_kbps=8000, fps=25)
    recorder = SegmentRecorder(
        small_disk, "gate", options, min_free_mb=0, segment_s=0.6, clock=lambda: now_s
    )
    saved, told = 0, []
    numbers = iter(range(10_000))
    for _ in range(2):  # it fills up twice
        notices = []
        for number in itertools.islice(numbers, 100):
            now_s = number / 25
            notices += write(recorder, number * 40, size=(320, 192), draw=noise)
        (failed,) = [n for n in notices if isinstance(n, RecordingFailed)]
        assert "No space left" in failed.message
        for path in small_disk.glob("gate/*/*.mp4"):
            assert len(decode(path)[0]) > 0
            path.unlink()
        now_s += 60
        for number in itertools.islice(numbers, 25):
            notices += write(recorder, number * 40, size=(320, 192))
        told += [n.frames_lost for n in notices if isinstance(n, RecordingResumed)]
        saved += sum(n.frames for n in notices if isinstance(n, SegmentEnded))
    saved += sum(n.frames for n in recorder.close() if isinstance(n, SegmentEnded))
    assert len(told) == 2
    assert min(told) > 0
    assert sum(told) == recorder.frames_lost
    assert saved + recorder.frames_lost == 250


def test_too_little_space_is_refused_at_start(small_disk):
    with pytest.raises(SinkError, match="1 MB are free, fewer than the 200 MB"):
        SegmentRecorder(small_disk, "gate", LIVE)
    recorder = SegmentRecorder(small_disk, "gate", LIVE, min_free_mb=1)
    assert [type(n) for n in write(recorder, 0)] == [SegmentStarted, DiskLow]
    recorder.close()


# Segments


def test_segments_are_named_by_time_and_cut_by_media_time(tmp_path):
    recorder = SegmentRecorder(tmp_path, "gate", LIVE, segment_s=1.0, min_free_mb=1)
    notices = [n for pts_ms in range(0, 2500, 40) for n in write(recorder, pts_ms)]
    notices += recorder.close()
    assert recorder.close() == []
    ended = [n for n in notices if isinstance(n, SegmentEnded)]
    assert [n.path.relative_to(tmp_path).as_posix() for n in ended] == [
        "gate/2026-11-21/gate_20261121T101530.123Z.mp4",
        "gate/2026-11-21/gate_20261121T101531.123Z.mp4",
        "gate/2026-11-21/gate_20261121T101532.123Z.mp4",
    ]
    assert [n.frames for n in ended] == [25, 25, 13]
    assert [n.duration_s for n in ended] == pytest.approx([1.0, 1.0, 0.52])
    assert [n.start_utc_ns - START_UTC_NS for n in ended] == [0, 10**9, 2 * 10**9]
    assert all(n.finished and n.size_bytes == n.path.stat().st_size for n in ended)


def test_a_new_clock_or_size_begins_a_new_segment(tmp_path):
    recorder = SegmentRecorder(tmp_path, "gate", LIVE, min_free_mb=1)
    for pts_ms in (0, 40, 80):
        write(recorder, pts_ms)
    assert len(write(recorder, 20)) == 2  # PTS restarted
    assert write(recorder, 60) == []
    assert len(write(recorder, 100, size=(64, 64))) == 2
    ended, started = write(recorder, 140, size=(64, 64), discontinuity=True)
    assert isinstance(ended, SegmentEnded)
    assert isinstance(started, SegmentStarted)
    recorder.close()
    assert [len(decode(path)[0]) for path in sorted(tmp_path.glob("gate/*/*.mp4"))] == [3, 2, 1, 1]


def test_names_that_are_taken_are_left_alone(tmp_path):
    for _ in range(3):
        recorder = SegmentRecorder(tmp_path, "gate", LIVE, min_free_mb=1)
        write(recorder, 0)
        recorder.close()
    names = sorted(path.stem for path in tmp_path.glob("gate/*/*.mp4"))
    assert names == [f"gate_20261121T101530.123Z{end}" for end in ("", "_1", "_2")]


def test_wrong_recorders_are_refused(tmp_path):
    for camera in ("", "../gate", "a b", ".hidden"):
        with pytest.raises(ConfigError, match="camera must be letters"):
            SegmentRecorder(tmp_path, camera, LIVE)
    with pytest.raises(ConfigError, match=r"segment_s must be above 0, got 0"):
        SegmentRecorder(tmp_path, "gate", LIVE, segment_s=0)
    (tmp_path / "file").touch()
    with pytest.raises(SinkError, match="Not a directory"):
        SegmentRecorder(tmp_path / "file", "gate", LIVE)


# One file for the whole run


def test_single_file_goes_on_over_a_new_clock_and_a_new_size(tmp_path):
    path = tmp_path / "out.mp4"
    single = SingleFile(path, WriterOptions(live=False, fps=25))
    notices = [n for pts_ms in (5000, 5050, 5100) for n in write(single, pts_ms)]
    notices += write(single, 0)
    notices += write(single, 100, size=(96, 96), draw=lambda p, n: p.fill(200))
    notices += write(single, 140, size=(96, 96))
    notices += write(single, 9000, discontinuity=True)
    notices += single.close()
    kinds = [type(n) for n in notices]
    assert kinds == [
        SegmentStarted,
        TimelineJoined,
        PictureResized,
        PictureResized,
        TimelineJoined,
        SegmentEnded,
    ]
    assert notices[2].from_size == (96, 96)
    assert notices[2].to_size == (160, 96)
    times, frames = decode(path)
    assert times == pytest.approx([0, 0.05, 0.10, 0.15, 0.25, 0.29, 0.33], abs=1e-3)
    luma = frames[4].to_ndarray(format="yuv420p")[:96]
    assert abs(luma[:, 40:120].mean() - 200) < 4
    assert luma[:, :24].mean() < 24
    assert notices[-1].finished


def test_single_file_loses_nothing_that_is_there(tmp_path):
    path = tmp_path / "out.mp4"
    path.write_bytes(b"keep me")
    fifo = tmp_path / "fifo.mp4"
    os.mkfifo(fifo)
    options = WriterOptions(live=False)
    with pytest.raises(ConfigError, match=r"out\.mp4: this file exists; .*allow overwriting"):
        SingleFile(path, options)
    with pytest.raises(ConfigError, match="this is also the input"):
        SingleFile(path, options, overwrite=True, inputs=(tmp_path / "x.mp4", path))
    with pytest.raises(ConfigError, match=r"this is a folder; name a file .*out\.mp4"):
        SingleFile(tmp_path, options, overwrite=True)
    with pytest.raises(ConfigError, match="no regular file"):
        SingleFile(fifo, options, overwrite=True)
    with pytest.raises(ConfigError, match=r"must end in \.mp4; use .*out\.mp4"):
        SingleFile(tmp_path / "out.avi", options)
    with pytest.raises(ConfigError, match="there is no folder"):
        SingleFile(tmp_path / "no" / "out.mp4", options)
    assert path.read_bytes() == b"keep me"

    second = SingleFile(path, options, part=2)
    write(second, 0)
    second.close()
    assert path.read_bytes() == b"keep me"
    assert len(decode(tmp_path / "out.part2.mp4")[0]) == 1
    assert SingleFile(path, options, part=2).path == tmp_path / "out.part3.mp4"

    single = SingleFile(path, options, overwrite=True)
    write(single, 0)
    single.close()
    assert len(decode(path)[0]) == 1


def test_single_file_on_a_full_disk_says_so_and_closes_unfinished(small_disk):
    single = SingleFile(small_disk / "out.mp4", WriterOptions(live=True, bitrate_kbps=8000))
    with pytest.raises(SinkError, match="No space left"):
        write_until_full(single)
    (ended,) = single.close()
    assert not ended.finished
    assert ended.frames == len(decode(ended.path)[0])
