"""Files that the writers make, read back; and what happens when disk or process fail."""

from __future__ import annotations

import pytest
from contracts.check_writer import check_writer

from streamer.sinks.encoder import WriterOptions
from streamer.sinks.mp4 import Mp4Writer
from streamer.sinks.segments import SegmentRecorder
from streamer.sinks.single import SingleFile


@pytest.mark.parametrize("live", [True, False], ids=["live", "file"])
@pytest.mark.parametrize("codec", ["h264", "hevc", "av1"])
def test_mp4_writer_keeps_pictures_and_times(tmp_path, codec, live):
    path = tmp_path / "out.mp4"
    options = WriterOptions(live=live, codec=codec, fps=25)
    check_writer(lambda: Mp4Writer(path, options, width=160, height=96), lambda: [path])


def test_single_file_keeps_pictures_and_times(tmp_path):
    path = tmp_path / "out.mp4"
    check_writer(lambda: SingleFile(path, WriterOptions(live=False)), lambda: [path])


def test_segments_keep_pictures_and_times(tmp_path):
    options = WriterOptions(live=True, fps=25)
    check_writer(
        lambda: SegmentRecorder(tmp_path, "gate", options, segment_s=0.4, min_free_mb=1),
        lambda: sorted(tmp_path.glob("gate/*/*.mp4")),
    )
    assert len(list(tmp_path.glob("gate/*/*.mp4"))) == 4
