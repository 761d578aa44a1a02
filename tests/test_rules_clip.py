"""Clips and snapshots against segments of known pictures, finished and still growing."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from media import number_in, picture

from streamer.errors import SinkError
from streamer.planes import Planes
from streamer.sinks.base import Canvas
from streamer.sinks.clip import Moment, cut_clip, take_snapshot
from streamer.sinks.encoder import Codec, WriterOptions
from streamer.sinks.segments import SegmentRecorder
from streamer.sources.base import FrameTimes

START_NS = 1_795_256_130_123_456_789
FPS = 25
OFFSET = 1000
"""Media time of the first frame, in frames: the source's clock does not begin at 0."""


def recorder(
    folder: Path, *, live: bool = True, segment_s: float = 2.0, codec: Codec = "h264"
) -> SegmentRecorder:
    fast = {"h264": "ultrafast", "hevc": "ultrafast", "av1": "12"}[codec]
    options = WriterOptions(live=live, codec=codec, fps=FPS, crf=18, preset=fast)
    return SegmentRecorder(folder, "gate", options, segment_s=segment_s, min_free_mb=0)


def record(
    to: SegmentRecorder,
    frames: range,
    *,
    wall_s_per_s: float = 1.0,
    size: tuple[int, int] = (160, 96),
) -> None:
    """Numbered pictures; the wall clock may run slower than media time, as when a file is read."""
    width, height = size
    for index in frames:
        i420 = picture(index, width, height)
        half = (height // 2, width // 2)
        planes = Planes(
            i420[:height],
            np.full(half, 128, np.uint8),
            np.full(half, 128, np.uint8),
        )
        wall_ns = START_NS + round(index * wall_s_per_s * 1e9 / FPS)
        times = FrameTimes(OFFSET + index, Fraction(1, FPS), wall_ns, wall_ns, False)
        to.write(Canvas(planes), times)


def at(index: int, *, wall_s_per_s: float = 1.0, media: bool = True) -> Moment:
    wall_ns = START_NS + round(index * wall_s_per_s * 1e9 / FPS)
    return Moment(wall_ns // 1000 * 1000, (OFFSET + index) / FPS if media else None)


def numbers(path: Path) -> list[tuple[float, int]]:
    """Media time and number of each picture of a file."""
    with av.open(str(path)) as container:
        return [
            (float(frame.time), number_in(frame.to_ndarray(format="yuv420p")[: frame.height]))
            for frame in container.decode(video=0)
        ]


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("media", [True, False])
def test_a_clip_over_two_segments_has_every_frame_once_at_its_time(
    tmp_path: Path, live: bool, media: bool
) -> None:
    to = recorder(tmp_path, live=live)
    record(to, range(120))
    to.close()
    out = tmp_path / "clips" / "a.mp4"
    clip = cut_clip(
        tmp_path, "gate", at(48, media=media), before_s=0.8, after_s=1.2, path=out, final=False
    )
    assert clip is not None
    assert clip.complete
    seen = numbers(out)
    first = seen[0][1]
    assert first <= 28, "it begins with the key frame at or before what was asked for"
    assert [number for _, number in seen] == list(range(first, first + len(seen)))
    assert seen[-1][1] >= 78
    for time_s, number in seen:
        assert time_s == pytest.approx((number - first) / FPS, abs=1e-4)
    assert clip.moment_s == pytest.approx((48 - first) / FPS, abs=1e-3)
    assert clip.frames == len(seen)
    assert clip.duration_s == pytest.approx(len(seen) / FPS, abs=1e-3)
    assert clip.start_ns == pytest.approx(START_NS + first * 1e9 / FPS, abs=2e6)
    assert clip.size_bytes == out.stat().st_size


@pytest.mark.parametrize("codec", ["hevc", "av1"])
def test_other_codecs_are_cut_as_well(tmp_path: Path, codec: Codec) -> None:
    to = recorder(tmp_path, codec=codec)
    record(to, range(80))
    to.close()
    out = tmp_path / "a.mp4"
    clip = cut_clip(tmp_path, "gate", at(50), before_s=0.4, after_s=0.4, path=out, final=False)
    assert clip is not None
    assert clip.complete
    seen = [number for _, number in numbers(out)]
    assert seen == list(range(seen[0], seen[0] + len(seen)))
    assert seen[0] <= 40
    assert seen[-1] >= 60


def test_files_are_cut_by_media_time_though_they_are_read_faster(tmp_path: Path) -> None:
    to = recorder(tmp_path)
    record(to, range(110), wall_s_per_s=0.1)
    to.close()
    out = tmp_path / "a.mp4"
    moment = at(60, wall_s_per_s=0.1)
    clip = cut_clip(tmp_path, "gate", moment, before_s=0.4, after_s=0.4, path=out, final=False)
    assert clip is not None
    found = {number: time_s for time_s, number in numbers(out)}
    assert {50, 60, 70} <= found.keys()
    assert found[60] == pytest.approx(clip.moment_s, abs=1e-3)


def test_a_clip_waits_for_what_is_not_recorded_yet(tmp_path: Path) -> None:
    to = recorder(tmp_path, segment_s=60)
    out = tmp_path / "a.mp4"

    def cut(*, final: bool) -> object:
        return cut_clip(tmp_path, "gate", at(30), before_s=1, after_s=1, path=out, final=final)

    assert cut(final=False) is None, "nothing is on the disk"
    with pytest.raises(SinkError, match="the moment is not recorded"):
        cut(final=True)
    record(to, range(45))
    assert cut(final=False) is None
    assert not out.exists()
    clip = cut(final=True)
    assert not clip.complete  # type: ignore[attr-defined]
    record(to, range(45, 80))
    clip = cut(final=False)
    assert clip.complete  # type: ignore[attr-defined]
    assert {5, 30, 55} <= {number for _, number in numbers(out)}
    to.close()


def test_a_clip_of_the_first_moment_says_that_it_is_short(tmp_path: Path) -> None:
    to = recorder(tmp_path)
    record(to, range(60))
    to.close()
    clip = cut_clip(
        tmp_path, "gate", at(5), before_s=3, after_s=1, path=tmp_path / "a.mp4", final=False
    )
    assert clip is not None
    assert not clip.complete
    assert clip.moment_s == pytest.approx(0.2, abs=1e-3)


def test_a_moment_before_all_recordings(tmp_path: Path) -> None:
    to = recorder(tmp_path)
    record(to, range(10))
    to.close()
    with pytest.raises(SinkError, match="the moment is not recorded"):
        take_snapshot(tmp_path, "gate", at(-100), path=tmp_path / "a.jpg", final=True)


def test_another_run_or_size_is_not_joined(tmp_path: Path) -> None:
    to = recorder(tmp_path, segment_s=60)
    record(to, range(50))
    record(to, range(50, 100), size=(192, 96))
    to.close()
    out = tmp_path / "a.mp4"
    clip = cut_clip(tmp_path, "gate", at(60), before_s=1, after_s=0.4, path=out, final=False)
    assert clip is not None
    assert not clip.complete
    assert numbers(out)[0][1] == 50


@pytest.mark.parametrize("live", [True, False])
def test_a_snapshot_is_the_frame_of_the_moment(tmp_path: Path, live: bool) -> None:
    to = recorder(tmp_path, live=live)
    record(to, range(75))
    to.close()
    out = tmp_path / "clips" / "a.jpg"
    for index in (0, 49, 50, 63):
        found = take_snapshot(tmp_path, "gate", at(index), path=out, final=False)
        assert found is not None
        assert (found.width, found.height) == (160, 96)
        assert found.frame_ns == pytest.approx(START_NS + index * 1e9 / FPS, abs=2e6)
        assert out.read_bytes()[:3] == b"\xff\xd8\xff"
        with av.open(str(out)) as container:
            frame = next(container.decode(video=0))
            assert (frame.width, frame.height) == (160, 96)
            luma = frame.to_ndarray(format="yuvj420p")[:96]
            # The recording has limited range and a JPEG has full: black is 0 and white is 255.
            assert number_in(luma) == index
            assert luma[2, 2] > 230 or luma[2, 2] < 30


def test_a_snapshot_waits_for_its_frame(tmp_path: Path) -> None:
    to = recorder(tmp_path, segment_s=60)
    record(to, range(40))
    out = tmp_path / "a.jpg"
    assert take_snapshot(tmp_path, "gate", at(39), path=out, final=False) is None
    to.close()
    assert take_snapshot(tmp_path, "gate", at(39), path=out, final=False) is not None


def test_a_clip_that_can_not_be_written_leaves_nothing(tmp_path: Path) -> None:
    to = recorder(tmp_path)
    record(to, range(60))
    to.close()
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match="nothing was written"):
        cut_clip(
            tmp_path, "gate", at(30), before_s=1, after_s=0.5, path=tmp_path / "file" / "a.mp4",
            final=True,
        )  # fmt: skip
    assert not list(tmp_path.glob("**/*.part"))
