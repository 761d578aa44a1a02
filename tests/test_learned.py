"""Recordings by the learned codec: as long, as timed and as safe as those of any other."""

from __future__ import annotations

import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from pipeline import Run, segments, streamer

from engines.codec.player import Player
from engines.codec.reader import LvcReader
from engines.codec.runtime import RtRuntime
from engines.errors import ModelError
from streamer.errors import ConfigError, SinkError
from streamer.sinks.base import CodecChanged, PictureResized, SegmentEnded, SegmentStarted
from streamer.sinks.encoder import LearnedOptions, WriterOptions
from streamer.sinks.learned import LvcFile, emphasis_of, sustained_size
from streamer.sinks.segments import SegmentRecorder
from streamer.sinks.single import SingleFile
from streamer.sources.base import FrameTimes

sys.path.append(str(Path(__file__).parent / "codec"))
from codec_tiny import tiny_model

WIDTH, HEIGHT = 160, 96


def times_at(number: int, time_base: Fraction = Fraction(1, 25)) -> FrameTimes:
    return FrameTimes(number, time_base, 1_795_256_130 * 10**9 + number * 40_000_000, number)


@pytest.fixture(scope="module")
def model() -> str:
    """Folder of a tiny codec, untrained: its pictures are poor, its files are real."""
    return str(tiny_model())


def options(model: str, *, live: bool = False, **learned: object) -> WriterOptions:
    return WriterOptions(live=live, codec="learned", learned=LearnedOptions(model=model, **learned))


def decoded(path: Path, model: str) -> list[tuple[float, tuple[int, int]]]:
    """Media time and size of every picture of a file."""
    codec = RtRuntime(model)
    with LvcReader(path) as reader:
        played = list(Player(codec, reader).pictures())
        base = reader.header.time_base
    return [(float(p.pts * base), p.picture.y.shape[::-1]) for p in played]


def fill(recording: SegmentRecorder | SingleFile, count: int, width: int, height: int) -> list:
    notices = []
    for number in range(count):
        canvas = recording.blank(width, height)
        canvas.planes.fill(40 + number)
        notices += recording.write(canvas, times_at(number))
    return notices


def test_every_frame_is_in_the_file_at_its_time(tmp_path: Path, model: str) -> None:
    path = tmp_path / "a.lvc"
    file = SingleFile(path, options(model))
    notices = fill(file, 12, WIDTH, HEIGHT) + file.close()
    started, ended = notices
    assert isinstance(started, SegmentStarted)
    assert (started.codec, started.size) == ("learned", (WIDTH, HEIGHT))
    assert isinstance(ended, SegmentEnded)
    assert (ended.frames, ended.finished) == (12, True)
    assert ended.size_bytes == path.stat().st_size
    assert [at for at, _ in decoded(path, model)] == pytest.approx([n / 25 for n in range(12)])


@pytest.mark.parametrize(
    ("wanted", "recorded"),
    [(None, [(160, 96), (96, 96)]), ((80, 48), [(80, 48), (60, 60)])],
)
@pytest.mark.parametrize("segments", [False, True])
def test_the_file_goes_on_in_a_new_size(
    tmp_path: Path, model: str, wanted: tuple[int, int] | None, recorded: list, segments: bool
) -> None:
    if segments:
        file = SegmentRecorder(tmp_path, "gate", options(model, size=wanted))
    else:
        file = SingleFile(tmp_path / "a.lvc", options(model, size=wanted))
    notices = []
    for number in range(6):
        objects = np.array([[10, 10, 60, 60]], np.float32)
        canvas = replace(file.blank(WIDTH if number < 3 else 96, HEIGHT), objects_xyxy=objects)
        canvas.planes.fill(40 + number)
        notices += file.write(canvas, times_at(number))
    notices += file.close()
    kinds = [type(n) for n in notices]
    assert kinds == [SegmentStarted, PictureResized, SegmentEnded]
    assert (notices[1].from_size, notices[1].to_size) == ((96, 96), recorded[1])
    assert not notices[1].letterboxed
    path = notices[0].path
    assert [size for _, size in decoded(path, model)] == 3 * recorded[:1] + 3 * recorded[1:]


def test_a_size_is_met_in_pixels_by_another_shape(tmp_path: Path, model: str) -> None:
    file = SingleFile(tmp_path / "a.lvc", options(model, size=(64, 64)))
    started = fill(file, 1, WIDTH, HEIGHT)[0]
    file.close()
    assert started.size == (82, 48)


def test_pictures_are_recorded_at_the_size_that_was_asked_for(tmp_path: Path, model: str) -> None:
    file = SingleFile(tmp_path / "a.lvc", options(model, size=(80, 48)))
    started = fill(file, 3, WIDTH, HEIGHT)[0]
    file.close()
    assert started.size == (80, 48)
    assert {size for _, size in decoded(tmp_path / "a.lvc", model)} == {(80, 48)}


@pytest.mark.parametrize("kind", ["segments", "single"])
def test_where_the_network_is_too_slow_h264_goes_on_and_no_frame_is_lost(
    tmp_path: Path, model: str, kind: str
) -> None:
    live = options(model, live=True)
    recording: SegmentRecorder | SingleFile = (
        SegmentRecorder(tmp_path, "gate", live, min_free_mb=1)
        if kind == "segments"
        else SingleFile(tmp_path / "a.lvc", live)
    )
    notices = fill(recording, 60, 640, 360) + list(recording.close())  # faster than any camera
    changed = [n for n in notices if isinstance(n, CodecChanged)]
    assert len(changed) == 1
    assert "can't keep up; H.264 goes on" in changed[0].message
    assert [n.codec for n in notices if isinstance(n, SegmentStarted)] == ["learned", "h264"]
    ended = [n for n in notices if isinstance(n, SegmentEnded)]
    assert {n.path.suffix for n in ended} == {".lvc", ".mp4"}
    assert sum(n.frames for n in ended) == 60
    assert all(n.finished for n in ended)


def test_the_learned_codec_is_tried_again_later(tmp_path: Path, model: str) -> None:
    now = [0.0]
    live = options(model, live=True)
    recorder = SegmentRecorder(tmp_path, "gate", live, min_free_mb=1, clock=lambda: now[0])
    fill(recorder, 60, 640, 360)
    now[0] = 301.0
    canvas = recorder.blank(WIDTH, HEIGHT)  # another size begins another segment
    canvas.planes.fill(90)
    notices = recorder.write(canvas, times_at(100))
    recorder.close()
    assert [n.codec for n in notices if isinstance(n, SegmentStarted)] == ["learned"]


@pytest.mark.parametrize("kind", ["segments", "single"])
def test_beside_another_codec_it_rests_where_it_is_too_slow(
    tmp_path: Path, model: str, kind: str
) -> None:
    now = [0.0]
    live = options(model, live=True, relieved=False)
    recording: SegmentRecorder | SingleFile = (
        SegmentRecorder(tmp_path, "gate", live, min_free_mb=1, clock=lambda: now[0])
        if kind == "segments"
        else SingleFile(tmp_path / "a.lvc", live)
    )
    notices = fill(recording, 60, 640, 360)  # faster than any camera
    (changed,) = (n for n in notices if isinstance(n, CodecChanged))
    assert ("it rests for 300 s" if kind == "segments" else "ends here") in changed.message
    now[0] = 301.0
    canvas = recording.blank(WIDTH, HEIGHT)
    canvas.planes.fill(90)
    notices += [*recording.write(canvas, times_at(100)), *recording.close()]
    started = [n.codec for n in notices if isinstance(n, SegmentStarted)]
    assert started == ["learned"] * (2 if kind == "segments" else 1)
    ended = [n for n in notices if isinstance(n, SegmentEnded)]
    assert all(n.finished and n.path.suffix == ".lvc" for n in ended)
    assert 0 < sum(n.frames for n in ended) < 60
    assert getattr(recording, "frames_lost", 0) == 0


def test_a_full_disk_is_told_and_what_was_written_plays(small_disk: Path, model: str) -> None:
    (small_disk / "ballast").write_bytes(bytes(2_000_000))  # what is left fills up in a few frames
    path = small_disk / "a.lvc"
    file = LvcFile(path, options(model, quality=63), width=640, height=360)
    noise = np.random.default_rng(1)

    def fill_up() -> None:
        for number in range(400):
            canvas = file.blank()
            canvas.planes.y[:] = noise.integers(16, 236, canvas.planes.y.shape, np.uint8)
            file.write(canvas, times_at(number))

    with pytest.raises(SinkError, match=r"a\.lvc: No space left on device; .* s are saved and pl"):
        fill_up()
    file_frames = file.statistics.frames_flushed
    assert len(decoded(path, model)) == file_frames > 0


def test_a_missing_model_and_wrong_numbers_are_named(tmp_path: Path, model: str) -> None:
    with pytest.raises(ModelError, match="codec must be a shipped one or the folder of an expor"):
        LvcFile(tmp_path / "a.lvc", options("nowhere"), width=64, height=64)
    with pytest.raises(ConfigError, match=r"learned\.quality must be 0\.\.63, got 64"):
        SingleFile(tmp_path / "a.lvc", options(model, quality=64))
    with pytest.raises(ConfigError, match=r"must end in \.lvc; use .*a\.lvc"):
        SingleFile(tmp_path / "a.mp4", options(model))


def test_the_size_is_the_largest_that_the_machine_sustains(model: str) -> None:
    tiny = LearnedOptions(model=model)
    assert sustained_size(tiny, 320, 192, fps=0.5, threads=1) == (320, 192)
    less = sustained_size(tiny, 3840, 2160, fps=1.0, threads=1)
    assert less is None or (less[0] <= 3840 and less[0] % 2 == less[1] % 2 == 0)
    assert sustained_size(tiny, 1280, 720, fps=100_000.0, threads=1) is None


def test_the_size_is_measured_on_pictures_that_move(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    payloads = []
    compress = RtRuntime.compress

    def watched(*arguments: object, **options: object) -> object:
        payload, state = compress(*arguments, **options)
        payloads.append(payload)
        return payload, state

    monkeypatch.setattr(RtRuntime, "compress", watched)
    sustained_size(LearnedOptions(model=model), 320, 192, fps=5.0, threads=1)
    assert len(payloads) >= 3
    assert all(payloads)  # none repeats the one before, which needs no network


def test_where_things_happen_gets_more() -> None:
    boxes = np.array([[16, 0, 40, 20], [-5, 80, 8, 200]], np.float32)
    grid = emphasis_of(boxes, (70, 90), 12)
    assert grid is not None
    assert grid.shape == (6, 5)
    assert {(r, c) for r, c in np.argwhere(grid > 0).tolist()} == {
        (0, 1), (0, 2), (1, 1), (1, 2), (5, 0),
    }  # fmt: skip
    assert set(np.unique(grid)) == {-6, 6}
    assert emphasis_of(boxes[:0], (70, 90), 12) is None
    assert emphasis_of(boxes, (70, 90), 0) is None


def test_a_run_records_with_it(tmp_path: Path, model: str) -> None:
    config = tmp_path / "scene.yaml"
    config.write_text(
        f"""
cameras:
  gate:
    source: synthetic:street?seed=1&size=320x192&fps=10&seconds=3
    regime: offline
    record: {tmp_path / "recordings"}
encode:
  codec: learned
  learned: {{model: {model}, kbps: 200}}
"""
    )
    done = streamer("run", config, "--events", tmp_path / "events.jsonl", "--json")
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "recordings").rglob("*.lvc")
    assert [at for at, _ in decoded(path, model)] == pytest.approx([n / 10 for n in range(30)])
    assert not list(segments(tmp_path / "recordings"))


def test_a_run_records_with_it_beside_another(tmp_path: Path, model: str) -> None:
    config = tmp_path / "scene.yaml"
    config.write_text(
        f"""
cameras:
  gate:
    source: synthetic:street?seed=1&size=320x192&fps=10&seconds=2
    regime: offline
    record: {tmp_path / "recordings"}
    out: {tmp_path / "out.mp4"}
detector: null
encode:
  codec: h264+learned
  learned: {{model: {model}}}
"""
    )
    done = streamer("run", config, "--events", tmp_path / "events.jsonl", "--json")
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "recordings").rglob("*.lvc")
    (segment,) = segments(tmp_path / "recordings")
    assert segment.stem == path.stem
    for name in (segment, tmp_path / "out.mp4"):
        with av.open(str(name)) as container:
            assert sum(1 for _ in container.decode(video=0)) == 20
    assert len(decoded(path, model)) == len(decoded(tmp_path / "out.lvc", model)) == 20


def test_live_it_chooses_a_size_and_survives_a_kill(tmp_path: Path, model: str) -> None:
    config = tmp_path / "scene.yaml"
    config.write_text(
        f"""
cameras:
  gate:
    source: synthetic:street?seed=1&size=320x192&fps=5
    regime: live
    record: {tmp_path / "recordings"}
detector: null
encode:
  codec: learned
  learned: {{model: {model}}}
"""
    )
    with Run(tmp_path, config) as run:
        started = run.wait_event("recording.started")
        assert started["codec"] == "learned"
        assert 0 < int(str(started["width"])) <= 320
        run.wait_event("heartbeat", count=6)
        run.stage("encode.gate").kill()
        run.wait_event("recording.started", count=2)
        run.stop()
    first, second = sorted((tmp_path / "recordings").rglob("*.lvc"))
    assert len(decoded(first, model)) >= 3
    assert decoded(second, model)


def test_its_times_are_exact(tmp_path: Path, model: str) -> None:
    """Odd time bases come out to the millisecond."""
    file = LvcFile(tmp_path / "a.lvc", options(model), width=64, height=64)
    for number in range(5):
        canvas = file.blank()
        canvas.planes.fill(90)
        file.write(canvas, times_at(1001 * number, Fraction(1, 30000)))
    file.close()
    times = [at for at, _ in decoded(tmp_path / "a.lvc", model)]
    assert times == pytest.approx([number * 1001 / 30000 for number in range(5)], abs=1e-3)
