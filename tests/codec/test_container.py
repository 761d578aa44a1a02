"""Files of any codec: whole, cut off, damaged, sought in; with a codec that just stores planes."""

from __future__ import annotations

import subprocess
import sys
import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from codec_tiny import moving_pictures
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engines.codec.base import Codec, Picture
from engines.codec.errors import BitstreamError
from engines.codec.player import Player, Recorder
from engines.codec.reader import LvcReader
from engines.codec.records import Header, Record, RecordHead, RecordType
from engines.codec.writer import LvcWriter
from engines.errors import EngineMismatch

WIDTH, HEIGHT, PERIOD = 18, 10, 5


class DifferenceCodec(Codec):
    """Lossless: planes minus those of the frame before, so that a lost frame would show."""

    def __init__(self, name="difference", model_hash=bytes(32), refresh_period=0):
        self.name, self.model_hash, self.refresh_period = name, model_hash, refresh_period
        self.qualities = 64

    def close(self):
        pass

    def analyse(self, frame, state, *, quality, emphasis=None, vectors=None):
        flat = np.concatenate([p.ravel() for p in (frame.y, frame.u, frame.v)])
        change = (flat - (0 if state is None else state)).tobytes()
        return lambda: zlib.compress(change), flat

    def decompress(self, payload, state, *, width, height, quality):
        try:
            flat = np.frombuffer(zlib.decompress(payload), np.uint8)
        except zlib.error as error:
            raise BitstreamError(f"difference: {error}") from error
        flat = flat + (0 if state is None else state)
        luma, chroma = width * height, width * height // 4
        y, u, v = np.split(flat, [luma, luma + chroma])
        half = (height // 2, width // 2)
        return Picture(y.reshape(height, width), u.reshape(half), v.reshape(half)), flat


def header() -> Header:
    return Header("difference", bytes(32), WIDTH, HEIGHT, Fraction(1, 90_000), PERIOD, 0)


def write(path: Path, count: int = 12, *, close: bool = True) -> list[Picture]:
    pictures = moving_pictures(count, WIDTH, HEIGHT)
    writer = LvcWriter(path, header())
    recorder = Recorder(DifferenceCodec(), writer, quality=30)
    for i, picture in enumerate(pictures):
        recorder.add(
            picture, pts=3600 * i - 7200, capture_ns=1_700_000_000 * 10**9 + i * 40_000_003
        )
        if i == 6:
            recorder.add_metadata(b'{"event": "gate"}')
    recorder.close()
    if close:
        writer.close()
    else:
        writer._file.close()  # as the end of a killed process would
    return pictures


def play(path: Path):
    with LvcReader(path) as reader:
        return list(Player(DifferenceCodec(), reader).pictures()), reader.damages


def assert_same(got: Picture, want: Picture) -> None:
    np.testing.assert_array_equal(got.y, want.y)
    np.testing.assert_array_equal(got.u, want.u)
    np.testing.assert_array_equal(got.v, want.v)


def test_pictures_and_times_survive(tmp_path):
    pictures = write(tmp_path / "a.lvc")
    with LvcReader(tmp_path / "a.lvc") as reader:
        assert reader.header == header()
        records = list(reader.records())
    played, damages = play(tmp_path / "a.lvc")
    assert damages == []
    assert [p.pts for p in played] == [3600 * i - 7200 for i in range(12)]
    assert played[7].capture_ns == 1_700_000_000 * 10**9 + 7 * 40_000_003
    assert [i for i, p in enumerate(played) if p.intra] == [0, 5, 10]
    for one, picture in zip(played, pictures, strict=True):
        assert_same(one.picture, picture)
    assert [r.payload for r in records if not r.is_frame] == [b'{"event": "gate"}']


def test_an_inter_frame_costs_few_bytes_beside_its_payload():
    before = Record(RecordType.INTRA, b"", 9, 0, 10**6, 1_700_000_000 * 10**9)
    record = Record(
        RecordType.INTER, bytes(700), 9, 1, 10**6 + 3600, before.capture_ns + 40_000_003
    )
    assert len(record.to_bytes(before)) - 700 <= 17


def test_a_killed_recorder_leaves_every_whole_record(tmp_path):
    pictures = write(tmp_path / "a.lvc", close=False)
    whole = (tmp_path / "a.lvc").read_bytes()
    for cut in (1, 5, 100):
        (tmp_path / "cut.lvc").write_bytes(whole[:-cut])
        played, damages = play(tmp_path / "cut.lvc")
        assert 9 <= len(played) < 12
        assert_same(played[-1].picture, pictures[len(played) - 1])
        assert [d.reason.split(": ")[-1] for d in damages] == ["the file ends inside a record"]
    played, damages = play(tmp_path / "a.lvc")
    assert (len(played), damages) == (12, [])


def test_a_writer_that_is_killed_loses_no_frame_that_it_wrote(tmp_path):
    code = (
        "import os, signal, sys\n"
        "from fractions import Fraction\n"
        "from engines.codec.records import Header\n"
        "from engines.codec.writer import LvcWriter\n"
        "header = Header('difference', bytes(32), 18, 10, Fraction(1, 90_000), 5, 0)\n"
        "writer = LvcWriter(sys.argv[1], header)\n"
        "for i in range(7):\n"
        "    writer.write_frame(bytes(i), intra=i == 0, quality=1, pts=i, capture_ns=0)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.lvc")], check=False)
    assert done.returncode == -9
    with LvcReader(tmp_path / "a.lvc") as reader:
        assert [r.payload for r in reader.records()] == [bytes(i) for i in range(7)]
        assert reader.damages == []


def test_each_file_cut_at_any_byte_gives_its_first_frames(tmp_path):
    pictures = write(tmp_path / "a.lvc", 4)
    whole = (tmp_path / "a.lvc").read_bytes()
    last = 0
    for cut in range(len(header().to_bytes()), len(whole), 7):
        (tmp_path / "cut.lvc").write_bytes(whole[:cut])
        played, _ = play(tmp_path / "cut.lvc")
        assert len(played) >= last
        last = len(played)
        for one, picture in zip(played, pictures, strict=False):
            assert_same(one.picture, picture)
    assert last == 4


@pytest.mark.parametrize("close", [True, False])
@pytest.mark.parametrize(
    ("pts", "first"), [(-9999, 0), (3600 * 4 - 7200, 0), (10_800, 5), (10**9, 10)]
)
def test_seek_goes_to_the_intra_frame_before(tmp_path, pts, first, close):
    pictures = write(tmp_path / "a.lvc", close=close)
    with LvcReader(tmp_path / "a.lvc") as reader:
        assert reader.seek(pts).pts == 3600 * first - 7200
        played = list(Player(DifferenceCodec(), reader).pictures())
    assert len(played) == 12 - first
    assert_same(played[0].picture, pictures[first])


def test_a_damaged_record_costs_the_frames_to_the_next_intra(tmp_path, caplog):
    pictures = write(tmp_path / "a.lvc")
    data = bytearray((tmp_path / "a.lvc").read_bytes())
    with LvcReader(tmp_path / "a.lvc") as reader:
        second_intra = reader.index()[1].offset
    data[second_intra + 40] ^= 0x10
    (tmp_path / "b.lvc").write_bytes(data)
    played, damages = play(tmp_path / "b.lvc")
    assert [p.pts // 3600 + 2 for p in played] == [0, 1, 2, 3, 4, 10, 11]
    assert_same(played[-1].picture, pictures[11])
    assert [d.offset for d in damages] == [second_intra]
    assert "does not agree with its CRC" in damages[0].reason
    assert f"byte {second_intra}" in caplog.text


def test_a_removed_record_is_noticed(tmp_path):
    write(tmp_path / "a.lvc")
    data = (tmp_path / "a.lvc").read_bytes()
    start = len(header().to_bytes())
    offsets = [start]
    for _ in range(3):
        offsets.append(offsets[-1] + RecordHead.parse(data[offsets[-1] :], where="test").size)
    (tmp_path / "b.lvc").write_bytes(data[: offsets[2]] + data[offsets[3] :])
    played, damages = play(tmp_path / "b.lvc")
    assert [p.pts // 3600 + 2 for p in played] == [0, 1, 5, 6, 7, 8, 9, 10, 11]
    assert "the frame before this inter frame is missing" in damages[0].reason


def test_a_length_that_lies_allocates_nothing(tmp_path):
    huge = b"\xa5\x4c\x00\xff\xff\xff\x07\x00\x00\x00"  # 2^24 - 1 bytes in a file of none
    (tmp_path / "a.lvc").write_bytes(header().to_bytes() + huge)
    played, damages = play(tmp_path / "a.lvc")
    assert played == []
    assert "the file ends inside a record" in damages[0].reason
    impossible = b"\xa5\x4c\x00" + b"\xff" * 7 + b"\x01"
    (tmp_path / "a.lvc").write_bytes(header().to_bytes() + impossible)
    _, damages = play(tmp_path / "a.lvc")
    assert "bytes is not possible" in damages[0].reason


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=6),
    cut=st.floats(0, 1),
)
def test_no_damage_crashes_or_shows_a_wrong_picture(tmp_path, flips, cut):
    path = tmp_path / "whole.lvc"
    pictures = write(path)
    data = bytearray(path.read_bytes())
    start = len(header().to_bytes())
    for place, mask in flips:
        data[start + int(place * (len(data) - start))] ^= mask
    (tmp_path / "hurt.lvc").write_bytes(data[: start + int(cut * (len(data) - start))])
    played, _ = play(tmp_path / "hurt.lvc")
    for one in played:
        assert_same(one.picture, pictures[one.pts // 3600 + 2])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_header_or_refused(data):
    for candidate in (data, header().to_bytes()[:10] + data):
        with pytest.raises(BitstreamError, match=r"fuzz: (not an|version|the header)"):
            Header.from_bytes(candidate, where="fuzz")


@pytest.mark.parametrize(
    ("version", "remedy"), [(2, "decode it with what wrote it"), (4, "update this program")]
)
def test_another_version_is_refused(version, remedy):
    data = bytearray(header().to_bytes())
    data[8] = version
    with pytest.raises(BitstreamError, match=f"version must be 3, got {version}; {remedy}"):
        Header.from_bytes(bytes(data), where="x.lvc")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"codec": "é"}, "codec must be 1 to 32 ASCII characters"),
        ({"width": 0}, "width and height must be 1..16384, got 0x10"),
        ({"time_base": Fraction(0)}, "time_base must be a positive 32-bit ratio, got 0"),
        ({"intra_period": 65536}, "intra_period must be 0..65535, got 65536"),
        ({"model_hash": b"x"}, "model_hash must be 32 bytes, got 1"),
    ],
)
def test_a_header_checks_itself(change, text):
    fields = {
        "codec": "rt", "model_hash": bytes(32), "width": 18, "height": 10,
        "time_base": Fraction(1, 25), "intra_period": 5, "refresh_period": 0,
    }  # fmt: skip
    with pytest.raises(ValueError, match=text):
        Header(**(fields | change))


SIZES = [(WIDTH, HEIGHT)] * 2 + [(36, 20)] * 7 + [(WIDTH, HEIGHT)] * 2


@pytest.fixture
def resized(tmp_path) -> tuple[Path, list[Picture]]:
    """A file whose pictures have SIZES, and those pictures."""
    pictures = [moving_pictures(i + 1, *size)[i] for i, size in enumerate(SIZES)]
    path = tmp_path / "sizes.lvc"
    with (
        LvcWriter(path, header()) as writer,
        Recorder(DifferenceCodec(), writer, quality=30) as recorder,
    ):
        for i, picture in enumerate(pictures):
            recorder.add(picture, pts=i, capture_ns=i)
    return path, pictures


def test_a_new_size_begins_with_an_intra_frame_of_its_own_geometry(resized):
    path, pictures = resized
    played, damages = play(path)
    assert damages == []
    assert [i for i, p in enumerate(played) if p.intra] == [0, 2, 7, 9]
    for one, picture in zip(played, pictures, strict=True):
        assert_same(one.picture, picture)
    with LvcReader(path) as reader:
        geometries = [r.geometry for r in reader.records() if r.type is RecordType.INTRA]
    assert geometries == [None, (36, 20), (36, 20), None]


@pytest.mark.parametrize(("pts", "first"), [(1, 0), (6, 2), (8, 7), (10, 9)])
def test_seek_finds_a_geometry(resized, pts, first):
    path, pictures = resized
    with LvcReader(path) as reader:
        reader.seek(pts)
        played = list(Player(DifferenceCodec(), reader).pictures())
    assert len(played) == len(pictures) - first
    assert_same(played[0].picture, pictures[first])


def test_a_damaged_geometry_costs_the_frames_to_the_next_intra(resized):
    path, pictures = resized
    with LvcReader(path) as reader:
        offset = reader.index()[1].offset
    data = bytearray(path.read_bytes())
    place = data.index(bytes([36, 20]), offset)
    for side in (35, 0):
        data[place] = side
        path.write_bytes(data)
        played, damages = play(path)
        assert [p.pts for p in played] == [0, 1, 7, 8, 9, 10]
        assert [d.offset for d in damages] == [offset]
        for one in played:
            assert_same(one.picture, pictures[one.pts])
    assert "width and height must be 1..16384, got 0x20" in damages[0].reason


def test_a_picture_beyond_every_file_is_refused_and_costs_nothing(tmp_path):
    first, second = moving_pictures(2, WIDTH, HEIGHT)
    wide = Picture(np.zeros((2, 16386), np.uint8), *[np.zeros((1, 8193), np.uint8)] * 2)
    path = tmp_path / "a.lvc"
    with (
        LvcWriter(path, header()) as writer,
        Recorder(DifferenceCodec(), writer, quality=30) as recorder,
    ):
        recorder.add(first, pts=0, capture_ns=0)
        with pytest.raises(ValueError, match=r"must be 1..16384, got 16386x2"):
            recorder.add(wide, pts=1, capture_ns=1)
        recorder.add(second, pts=2, capture_ns=2)
    played, _ = play(path)
    assert [(p.pts, p.intra) for p in played] == [(0, True), (2, False)]


def test_the_first_frame_must_be_intra(tmp_path):
    with (
        LvcWriter(tmp_path / "a.lvc", header()) as writer,
        pytest.raises(ValueError, match="the first frame of a file must be intra"),
    ):
        writer.write_frame(b"", intra=False, quality=0, pts=0, capture_ns=0)


@pytest.mark.parametrize(
    ("codec", "text"),
    [
        (
            DifferenceCodec(model_hash=b"\x01" * 32),
            "needs difference 000000000000, got difference 01",
        ),
        (DifferenceCodec(refresh_period=32), "needs refresh_period 0, got 32"),
    ],
)
def test_another_model_is_refused(tmp_path, codec, text):
    write(tmp_path / "a.lvc", 1)
    with LvcReader(tmp_path / "a.lvc") as reader, pytest.raises(EngineMismatch, match=text):
        Player(codec, reader)


def test_a_frame_that_the_codec_refuses_is_reported(tmp_path):
    writer = LvcWriter(tmp_path / "a.lvc", header())
    writer.write_frame(b"no zlib", intra=True, quality=3, pts=5, capture_ns=0)
    writer.close()
    with LvcReader(tmp_path / "a.lvc") as reader:
        player = Player(DifferenceCodec(), reader)
        assert list(player.pictures()) == []
        assert "difference: Error -3" in player.refused[0]
