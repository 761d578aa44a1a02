"""The exported rt codec: files, engines that disagree, damage, and an independent reader."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
from codec_tiny import lively_codec, moving_pictures, tiny_model
from plain_decoder import read_file

from engines.codec.base import Picture
from engines.codec.errors import BitstreamError
from engines.codec.export import round_to_float16
from engines.codec.motion import move
from engines.codec.player import Player, Recorder
from engines.codec.reader import LvcReader
from engines.codec.records import Header
from engines.codec.runtime import RtRuntime, _blocks_of
from engines.codec.scales import halves
from engines.codec.schedule import quality_offset
from engines.codec.varint import VarintReader
from engines.codec.writer import LvcWriter
from engines.errors import ModelError

WIDTH, HEIGHT = 100, 70
ENGINES = [("openvino:cpu", None), ("openvino:cpu", "bf16"), ("onnxruntime:cpu", None)]


def runtime(device: str = "onnxruntime:cpu", precision: str | None = None, refresh: int = 4):
    return RtRuntime(tiny_model(), device=device, precision=precision, refresh_period=refresh)


def psnr_db(a, b) -> float:
    planes = [(a.y, b.y), (a.u, b.u), (a.v, b.v)]
    error = [np.mean((x.astype(float) - y) ** 2) for x, y in planes]
    return float(10 * np.log10(255**2 / max((6 * error[0] + error[1] + error[2]) / 8, 1e-9)))


def encode(count: int, *, width: int = WIDTH, height: int = HEIGHT, quality: int = 20):
    """Payloads with their qualities, and the symbols of the encoder, all of one intra period."""
    codec = runtime()
    coded, state = [], None
    for i, picture in enumerate(moving_pictures(count, width, height)):
        q = min(quality + quality_offset(i), 63)
        payload, state = codec.compress(picture, state, quality=q)
        coded.append((payload, q))
    return coded


def decode(codec, coded, *, width: int = WIDTH, height: int = HEIGHT):
    pictures, states, state = [], [], None
    for payload, quality in coded:
        picture, state = codec.decompress(
            payload, state, width=width, height=height, quality=quality
        )
        pictures.append(picture)
        states.append(state)
    return pictures, states


@pytest.mark.parametrize(("width", "height"), [(64, 64), (101, 67), (16, 2)])
def test_pictures_of_any_size_come_back_in_that_size(width, height):
    coded = encode(2, width=width, height=height)
    for picture in decode(runtime(), coded, width=width, height=height)[0]:
        assert picture.y.shape == (height, width)
        assert picture.u.shape == picture.v.shape == ((height + 1) // 2, (width + 1) // 2)


@pytest.mark.parametrize(("device", "precision"), ENGINES)
def test_every_engine_parses_the_symbols_that_one_engine_wrote(device, precision):
    coded = encode(9)
    _, want = decode(runtime(), coded)
    _, got = decode(runtime(device, precision), coded)
    assert want[0].magnitudes is None
    for one, other in zip(want[1:], got[1:], strict=True):
        np.testing.assert_array_equal(one.magnitudes, other.magnitudes)


def test_torch_draws_what_the_engines_draw_from_the_same_symbols():
    codec = lively_codec()
    round_to_float16(codec)
    codec.eval()
    coded = encode(3)
    reader, state, memory = runtime(), None, None
    for payload, quality in coded:
        of_frame = {"width": WIDTH, "height": HEIGHT, "quality": quality}
        read = reader.parse(payload, state, **of_frame)
        before = state
        picture, state = reader.decompress(payload, state, **of_frame)
        symbols = [torch.from_numpy(a)[None].float() for a in (read.q, read.z)]
        of = torch.tensor([quality])
        with torch.no_grad():
            if memory is None:
                memory = codec.frame.decode(*symbols, None, of)
            else:
                moved = move(before.decoded, read.vectors)
                change = torch.from_numpy(_blocks_of(moved) - _blocks_of(before.decoded)) / 128
                memory = codec.frame.decode(*symbols, codec.context_of(memory, change, of), of)
            luma = torch.pixel_shuffle((codec.head(memory)[:, :64] + 1) * 128, 8)
        seen = luma[0, 0, :HEIGHT, :WIDTH].round().clamp(0, 255).numpy()
        assert np.abs(seen - picture.y).max() <= 1


def test_indices_of_the_trained_network_are_those_of_the_file():
    codec = lively_codec()
    round_to_float16(codec)
    codec.eval()
    reader = runtime()
    (first, second), state = encode(2), None
    q = reader.parse(first[0], None, width=WIDTH, height=HEIGHT, quality=first[1]).q
    _, state = reader.decompress(first[0], None, width=WIDTH, height=HEIGHT, quality=first[1])
    z = reader.parse(second[0], state, width=WIDTH, height=HEIGHT, quality=second[1]).z
    scales, quality = reader._scales["inter"], np.full((8, 8), second[1])
    ours = scales.even(scales.sums(z, state.magnitudes), quality)
    zeros = torch.zeros(1, *q.shape)
    with torch.no_grad():
        index = codec.frame.h_s_scales(
            torch.from_numpy(z)[None].float(), zeros, torch.tensor([second[1]]), zeros
        )
    even, _ = halves(q.shape)
    np.testing.assert_array_equal(index[0].numpy().take(even), ours.take(even))


@pytest.mark.slow
def test_96_frames_look_the_same_from_every_engine():
    coded = encode(96, width=64, height=64)
    source = moving_pictures(96, 64, 64)
    means = {}
    for device, precision in ENGINES:
        pictures, _ = decode(runtime(device, precision), coded, width=64, height=64)
        psnrs = [psnr_db(a, b) for a, b in zip(source, pictures, strict=True)]
        means[device, precision] = float(np.mean(psnrs))
    oracle = means["onnxruntime:cpu", None]
    assert means["openvino:cpu", None] == pytest.approx(oracle, abs=0.1)
    assert means["openvino:cpu", "bf16"] == pytest.approx(oracle, abs=0.5)


def test_an_independent_reader_finds_every_symbol_of_a_file(tmp_path):
    codec = runtime()
    header = Header("rt-tiny", codec.model_hash, WIDTH, HEIGHT, Fraction(1, 25), 3, 4)
    qualities = []
    with (
        LvcWriter(tmp_path / "a.lvc", header) as writer,
        Recorder(codec, writer, quality=11) as recorder,
    ):
        for i, picture in enumerate(moving_pictures(4, WIDTH, HEIGHT)):
            corner = np.zeros((5, 7), np.int8)
            corner[: i + 1, :2] = 9 - 5 * i
            recorder.add(picture, pts=3 * i + 1, capture_ns=10**18 + 7 * i, emphasis=corner)
        recorder.add_metadata(b"{}")
    found, frames, metadata = read_file(tmp_path / "a.lvc", tiny_model())
    assert found["codec"] == "rt-tiny"
    assert found["model"] == codec.model_hash
    assert found["size"] == (WIDTH, HEIGHT)
    assert found["time_base"] == (1, 25)
    assert found["periods"] == (3, 4)
    assert metadata == [b"{}"]
    assert [f.intra for f in frames] == [True, False, False, True]
    assert [(f.pts, f.capture_ns) for f in frames] == [
        (3 * i + 1, 10**18 + 7 * i) for i in range(4)
    ]
    state = None
    symbols = moved = 0
    with LvcReader(tmp_path / "a.lvc") as reader:
        records = [r for r in reader.records() if r.is_frame]
    for record, frame in zip(records, frames, strict=True):
        state = None if frame.intra else state
        qualities.append(record.quality)
        options = {"width": WIDTH, "height": HEIGHT, "quality": record.quality}
        read = codec.parse(record.payload, state, **options)
        np.testing.assert_array_equal(read.q, frame.q)
        np.testing.assert_array_equal(read.z, frame.z)
        np.testing.assert_array_equal(read.emphasis, frame.emphasis)
        np.testing.assert_array_equal(read.vectors, frame.vectors)
        symbols += np.count_nonzero(read.q) + np.count_nonzero(read.z)
        moved += np.count_nonzero(read.vectors)
        _, state = codec.decompress(record.payload, state, **options)
    assert qualities == [23, 11, 14, 23]
    assert symbols > 300
    assert moved > 20
    assert [f.emphasis[:3, :3].tolist() for f in frames[:2]] == [
        [[9, 9, 0], [0, 0, 0], [0, 0, 0]],
        [[4, 4, 0], [4, 4, 0], [0, 0, 0]],
    ]


def test_a_camera_that_rests_has_a_good_picture_for_each_eight(tmp_path):
    codec = runtime()
    header = Header("rt-tiny", codec.model_hash, 128, 64, Fraction(1, 25), 9, 4)
    (still,) = moving_pictures(1, 128, 64)
    noise = np.random.default_rng(2)
    rests = [
        Picture(still.y + noise.integers(0, 2, still.y.shape, np.uint8), still.u, still.v)
        for _ in range(11)
    ]
    qualities = {}
    for name, pictures in (("rests", rests), ("moves", moving_pictures(11, 128, 64))):
        with (
            LvcWriter(tmp_path / name, header) as writer,
            Recorder(codec, writer, quality=20) as recorder,
        ):
            for i, picture in enumerate(pictures):
                recorder.add(picture, pts=i, capture_ns=i)
        with LvcReader(tmp_path / name) as reader:
            qualities[name] = [record.quality for record in reader.records()]
    assert qualities["rests"] == [32, 20, 18, 16, 20, 16, 18, 16, 32, 32, 16]
    assert qualities["moves"] == [32, 20, 23, 20, 26, 20, 23, 20, 26, 32, 20]


def test_motion_that_is_found_ahead_changes_no_byte(tmp_path):
    codec = runtime()
    header = Header("rt-tiny", codec.model_hash, WIDTH, HEIGHT, Fraction(1, 25), 5, 4)
    pictures = moving_pictures(6, WIDTH, HEIGHT) + moving_pictures(2, 64, 64)
    searched = []

    def find_motion(frame, before):
        searched.append((frame, before))
        return RtRuntime.find_motion(codec, frame, before)

    codec.find_motion = find_motion
    for name, following in (("alone", [None] * 8), ("ahead", [*pictures[1:], None])):
        with (
            LvcWriter(tmp_path / name, header) as writer,
            Recorder(codec, writer, quality=30) as recorder,
        ):
            for i, (picture, after) in enumerate(zip(pictures, following, strict=True)):
                recorder.add(picture, pts=i, capture_ns=i, following=after)
    assert (tmp_path / "ahead").read_bytes() == (tmp_path / "alone").read_bytes()
    found = [[one is picture for picture in pictures].index(True) for _, one in searched]
    assert found == [0, 1, 2, 3, 6]  # an intra frame needs none, nor does another size
    with (
        LvcWriter(tmp_path / "other", header) as writer,
        Recorder(codec, writer, quality=30) as recorder,
    ):
        recorder.add(pictures[0], pts=0, capture_ns=0, following=pictures[3])
        recorder.add(pictures[1], pts=1, capture_ns=1)  # not the one that was announced
    with LvcReader(tmp_path / "other") as one, LvcReader(tmp_path / "alone") as wanted:
        pairs = list(zip(one.records(), wanted.records(), strict=False))
    assert [a.payload == b.payload for a, b in pairs] == [True, True]


def test_an_independent_reader_follows_a_new_geometry(tmp_path):
    codec = runtime()
    header = Header("rt-tiny", codec.model_hash, WIDTH, HEIGHT, Fraction(1, 25), 3, 4)
    sizes = [(WIDTH, HEIGHT)] * 2 + [(131, 40)] * 4
    with (
        LvcWriter(tmp_path / "a.lvc", header) as writer,
        Recorder(codec, writer, quality=40) as recorder,
    ):
        for i, size in enumerate(sizes):
            recorder.add(moving_pictures(i + 1, *size)[i], pts=i, capture_ns=i)
    _, frames, _ = read_file(tmp_path / "a.lvc", tiny_model())
    assert [f.size for f in frames] == sizes
    assert [f.intra for f in frames] == [True, False, True, False, False, True]
    with LvcReader(tmp_path / "a.lvc") as reader:
        played = list(Player(codec, reader).pictures())
        records = list(reader.records())
    assert [p.picture.y.shape[::-1] for p in played] == sizes
    read = codec.parse(records[2].payload, None, width=131, height=40, quality=records[2].quality)
    np.testing.assert_array_equal(read.q, frames[2].q)
    assert np.count_nonzero(read.q) > 20


def test_a_file_plays_from_any_intra_frame(tmp_path):
    codec = runtime(refresh=2)
    header = Header("rt-tiny", codec.model_hash, WIDTH, HEIGHT, Fraction(1, 25), 4, 2)
    with (
        LvcWriter(tmp_path / "a.lvc", header) as writer,
        Recorder(codec, writer, quality=30) as recorder,
    ):
        for i, picture in enumerate(moving_pictures(7, WIDTH, HEIGHT)):
            recorder.add(picture, pts=i, capture_ns=0)
    with LvcReader(tmp_path / "a.lvc") as reader:
        everything = list(Player(codec, reader).pictures())
        reader.seek(5)
        tail = list(Player(codec, reader).pictures())
    assert [p.pts for p in tail] == [4, 5, 6]
    for one, other in zip(tail, everything[4:], strict=True):
        np.testing.assert_array_equal(one.picture.y, other.picture.y)


def test_any_damage_of_a_payload_decodes_or_is_refused():
    coded = encode(1)
    codec = runtime()
    payload, quality = coded[0]
    rng = np.random.default_rng(4)
    refused = 0
    for _ in range(60):
        hurt = bytearray(payload[: rng.integers(len(payload) + 1)])
        for place in rng.integers(max(len(hurt), 1), size=3):
            if hurt:
                hurt[place] ^= int(rng.integers(1, 256))
        try:
            q = codec.parse(bytes(hurt), None, width=WIDTH, height=HEIGHT, quality=quality).q
        except BitstreamError as error:
            refused += 1
            assert "rt-tiny intra frame: " in str(error)  # noqa: PT017 - both outcomes are right
        else:
            assert q.shape == (20, 8, 8)
    assert refused > 10


def test_running_a_codec_does_not_import_torch():
    code = (
        "import sys, engines.codec.runtime, engines.codec.dvc_runtime, engines.codec.player;"
        "print(sorted({'torch', 'onnx', 'av', 'streamer'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_quality_must_be_one_that_the_model_has():
    with pytest.raises(ValueError, match=r"quality must be 0\.\.63, got 64"):
        runtime().compress(moving_pictures(1, 64, 64)[0], None, quality=64)


def test_a_higher_quality_has_finer_steps():
    sums = []
    for quality in (0, 30, 55):
        payload, of = encode(1, quality=quality)[0]
        q = runtime().parse(payload, None, width=WIDTH, height=HEIGHT, quality=of).q
        sums.append(int(np.abs(q).sum()))
    assert sums == sorted(set(sums))


def test_emphasis_moves_bits_to_where_it_is():
    pictures = moving_pictures(2, 128, 128)
    left = np.zeros((8, 8), np.int8)
    left[:, :4] = 24
    sums = {}
    for name, emphasis in (("none", None), ("left", left)):
        writes, reads, state, known = runtime(), runtime(), None, None
        for picture in pictures:
            payload, state = writes.compress(picture, state, quality=20, emphasis=emphasis)
            of = {"width": 128, "height": 128, "quality": 20}
            read = reads.parse(payload, known, **of)
            _, known = reads.decompress(payload, known, **of)
        np.testing.assert_array_equal(read.emphasis, 0 if emphasis is None else emphasis)
        halves = np.abs(read.q[:, :, :4]).sum(), np.abs(read.q[:, :, 4:]).sum()
        sums[name] = [int(half) for half in halves]
    assert sums["left"][0] > 1.5 * sums["none"][0]
    assert 0.5 * sums["none"][1] < sums["left"][1] < 1.5 * sums["none"][1]


def test_emphasis_that_stays_costs_nothing():
    pictures = moving_pictures(3, 64, 64)
    spot = np.zeros((4, 4), np.int8)
    spot[1, 1:3] = 20
    codec, state = runtime(), None
    changed = []
    for picture in pictures:
        payload, state = codec.compress(picture, state, quality=0, emphasis=spot)
        side = VarintReader(payload, where="test")
        side.unsigned()  # its length
        changed.append(side.unsigned())
    assert changed == [2, 0, 0]


def test_a_picture_that_stays_is_repeated_for_nothing(tmp_path):
    first, second = moving_pictures(2, WIDTH, HEIGHT)
    shown = [first] * 5 + [second] + [first] * 2
    codec = runtime(refresh=2)
    header = Header("rt-tiny", codec.model_hash, WIDTH, HEIGHT, Fraction(1, 25), 96, 2)
    with (
        LvcWriter(tmp_path / "a.lvc", header) as writer,
        Recorder(codec, writer, quality=11) as recorder,
    ):
        for i, picture in enumerate(shown):
            recorder.add(picture, pts=i, capture_ns=40_000_000 * i)
    with LvcReader(tmp_path / "a.lvc") as reader:
        sizes = [len(r.payload) for r in reader.records() if r.is_frame]
    assert [bool(size) for size in sizes] == [True] + [False] * 4 + [True, True, False]
    with LvcReader(tmp_path / "a.lvc") as reader:
        played = list(Player(codec, reader).pictures())
    for one in played[1:5]:
        np.testing.assert_array_equal(one.picture.y, played[0].picture.y)
    _, frames, _ = read_file(tmp_path / "a.lvc", tiny_model())
    assert [frame.q is None for frame in frames] == [not size for size in sizes]


def test_what_gets_better_or_changes_in_chroma_alone_is_no_repetition():
    picture = moving_pictures(1, 64, 64)[0]
    other = type(picture)(picture.y, picture.u, picture.v + 1)
    spot = np.zeros((4, 4), np.int8)
    spot[1, 1] = 1
    codec = runtime()
    _, state = codec.compress(picture, None, quality=20)
    assert codec.compress(picture, state, quality=20)[0] == b""
    assert codec.compress(picture, state, quality=12)[0] == b""
    assert codec.compress(picture, state, quality=21)[0]
    assert codec.compress(other, state, quality=20)[0]
    assert codec.compress(picture, state, quality=20, emphasis=spot)[0]


def test_a_repetition_needs_something_to_repeat():
    with pytest.raises(BitstreamError, match="rt-tiny intra frame: "):
        runtime().decompress(b"", None, width=WIDTH, height=HEIGHT, quality=20)


def test_a_missing_or_damaged_model_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"entropy\.npz: no such file; make it with"):
        RtRuntime(tmp_path)
    for file in tiny_model().iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "entropy.npz").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match=r"entropy\.npz: not the integers of a codec"):
        RtRuntime(tmp_path)


def test_another_graph_gives_another_hash(tmp_path):
    for file in tiny_model().iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert RtRuntime(tmp_path).model_hash == runtime().model_hash
    with (tmp_path / "refresh.onnx").open("ab") as graph:
        graph.write(b"\x00")
    assert RtRuntime(tmp_path).model_hash != runtime().model_hash
