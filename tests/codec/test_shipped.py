"""The codec that is shipped: small, as good as its card says, better than pictures one by one."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from engines.codec.base import Picture
from engines.codec.dvc_runtime import DvcRuntime
from engines.codec.load import load_codec
from engines.codec.metrics import score
from engines.codec.peers import PEERS, run_peer
from engines.codec.player import Player, Recorder
from engines.codec.probes import read_video, record_sizes
from engines.codec.rate import ConstantQuality
from engines.codec.reader import LvcReader
from engines.codec.records import Header
from engines.codec.runtime import RtRuntime
from engines.codec.writer import LvcWriter
from engines.zoo import find_codec

NAME = "rt-nano"
MOST_BYTES = 10_000_000
STREET = Path("synthetic:street?seed=5&size=320x192&fps=25&seconds=0.2")
STREET_SIZE = (320, 192)


@pytest.fixture(scope="module")
def codec() -> RtRuntime:
    return RtRuntime(find_codec(NAME))


def record(
    codec: RtRuntime | DvcRuntime, pictures: list[Picture], path: Path, quality: int
) -> list[Picture]:
    """Write pictures, and read back what a player shows."""
    height, width = pictures[0].y.shape
    header = Header(
        codec.name, codec.model_hash, width, height, Fraction(1, 25), 96, codec.refresh_period
    )
    with LvcWriter(path, header) as writer, Recorder(codec, writer, quality=quality) as recorder:
        for number, picture in enumerate(pictures):
            recorder.add(picture, pts=number, capture_ns=number)
    with LvcReader(path) as reader:
        return [played.picture for played in Player(codec, reader).pictures()]


def psnr_db(decoded: list[Picture], pictures: list[Picture]) -> float:
    return float(np.mean([score(a, b).psnr_yuv_db for a, b in zip(decoded, pictures, strict=True)]))


def test_all_shipped_codecs_fit_into_ten_megabytes() -> None:
    folder = find_codec(NAME).parent
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    assert 10**6 < sum(sizes) <= MOST_BYTES


def test_a_street_takes_far_fewer_bits_than_as_jpegs(
    codec: RtRuntime, data_dir: Path, tmp_path: Path
) -> None:
    clip = data_dir / "video" / "highway_320x240.avi"
    pictures = read_video(clip, 624)[600:]
    ours = tmp_path / "ours.lvc"
    quality_db = psnr_db(record(codec, pictures, ours, 24), pictures)
    jpegs = run_peer(PEERS["mjpeg"], 8, pictures, tmp_path)
    assert quality_db > psnr_db(jpegs.pictures, pictures)
    assert ours.stat().st_size < 0.6 * jpegs.file_bytes


def test_the_larger_codec_is_no_worse(codec: RtRuntime, data_dir: Path, tmp_path: Path) -> None:
    clip = data_dir / "video" / "highway_320x240.avi"
    pictures = read_video(clip, 612)[600:]
    small = RtRuntime(find_codec("rt-small"))
    found = {}
    for each in (codec, small):
        path = tmp_path / f"{each.name}.lvc"
        found[each.name] = psnr_db(record(each, pictures, path, 24), pictures), path.stat().st_size
    small.close()
    (nano_db, nano_bytes), (small_db, small_bytes) = found["rt-nano"], found["rt-small"]
    assert small_db > nano_db - 0.1
    assert small_bytes < 1.02 * nano_bytes


def test_dvc_takes_fewer_bytes_for_frames_that_follow(data_dir: Path, tmp_path: Path) -> None:
    clip = data_dir / "video" / "highway_320x240.avi"
    pictures = read_video(clip, 606)[600:]
    codec = load_codec(find_codec("dvc"))
    assert codec.name == "dvc"
    path = tmp_path / "dvc.lvc"
    decoded = record(codec, pictures, path, 0)
    codec.close()
    with LvcReader(path) as reader:
        first, *rest = [len(r.payload) for r in reader.records() if r.is_frame]
    assert max(rest) < 0.9 * first
    assert psnr_db(decoded[1:], pictures[1:]) > psnr_db(decoded[:1], pictures[:1]) - 0.5


def test_better_qualities_take_more_bits(codec: RtRuntime, tmp_path: Path) -> None:
    pictures = read_video(STREET, 4)
    found = []
    for quality in (4, 24, 44, 60):
        path = tmp_path / f"{quality}.lvc"
        seen_db = psnr_db(record(codec, pictures, path, quality), pictures)
        found.append((path.stat().st_size, seen_db))
    assert sorted(found) == found
    assert sorted(seen_db for _, seen_db in found) == [seen_db for _, seen_db in found]
    assert found[0][1] > 28
    assert found[-1][1] > 38


def test_a_scene_at_rest_is_nearly_free(codec: RtRuntime) -> None:
    still = read_video(STREET, 1) * 24
    sizes = record_sizes(codec, still, ConstantQuality(24), STREET_SIZE)
    assert max(sizes[8:]) <= 64
