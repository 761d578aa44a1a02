"""The exported dvc codec: whole-number scales, files, and one engine's symbols in another."""

from __future__ import annotations

import atexit
from fractions import Fraction
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from codec_tiny import moving_pictures

from engines.codec.dvc import DvcCodec, DvcConfig, IntegerHyperDecoder
from engines.codec.dvc_export import export_dvc
from engines.codec.dvc_runtime import DOUBLES, DvcRuntime
from engines.codec.errors import BitstreamError
from engines.codec.integer_layers import read_layers, run_layers
from engines.codec.player import Player, Recorder
from engines.codec.reader import LvcReader
from engines.codec.records import Header
from engines.codec.scales import SCALE_LEVELS
from engines.codec.writer import LvcWriter
from engines.errors import ModelError

TINY = DvcConfig(name="dvc-tiny", residual=8, latents=6, motion=8, flow=(8, 8, 8, 8))
WIDTH, HEIGHT = 100, 70


@cache
def model() -> Path:
    torch.manual_seed(2)
    torch.set_num_threads(1)
    codec = DvcCodec(TINY)
    for residual in (codec.intra, codec.inter.residual):
        residual.g_a[-1].weight.data.mul_(60)
        residual.g_s[0].weight.data.mul_(0.02)
        residual.h_a[-1].weight.data.mul_(3)
    codec.inter.motion_encoder[-1].weight.data.mul_(60)
    folder = TemporaryDirectory()
    atexit.register(folder.cleanup)
    export_dvc(codec, Path(folder.name))
    return Path(folder.name)


def layer_arrays(decoder: IntegerHyperDecoder) -> dict[str, np.ndarray]:
    arrays = {}
    for number, layer in enumerate(decoder.layers):
        weight = layer.weight.detach()
        if DOUBLES[number]:
            weight = weight.transpose(0, 1).flip(2, 3)
        arrays[f"{number}/weight"] = torch.round(weight * 64).to(torch.int32).numpy()
        arrays[f"{number}/bias"] = torch.round(layer.bias.detach() * 64).to(torch.int32).numpy()
    return arrays


def test_whole_number_layers_equal_torch():
    torch.manual_seed(0)
    decoder = IntegerHyperDecoder(TINY)
    for layer in decoder.layers:
        layer.weight.data.mul_(4)
    layers = read_layers(
        layer_arrays(decoder), doubles=DOUBLES, levels=SCALE_LEVELS, z_limit=31, where="test"
    )
    z = np.random.default_rng(1).integers(-31, 32, (8, 3, 2)).astype(np.int32)
    with torch.no_grad():
        want = decoder(torch.from_numpy(z)[None].float())[0].numpy()
    got = run_layers(layers, z)
    assert got.shape == (6, 12, 8)
    np.testing.assert_array_equal(got, want)
    assert len(set(got.ravel().tolist())) > 10


def test_layers_that_float32_would_round_or_that_lack_are_refused():
    arrays = layer_arrays(IntegerHyperDecoder(TINY))
    options = {"doubles": DOUBLES, "levels": SCALE_LEVELS, "z_limit": 31, "where": "m"}
    with pytest.raises(ModelError, match=r"m: sums of layer 1 reach \d+, and must stay below"):
        read_layers(arrays | {"1/weight": arrays["1/weight"] + 9000}, **options)
    del arrays["2/bias"]
    with pytest.raises(ModelError, match=r"m: the array '2/bias' is missing"):
        read_layers(arrays, **options)


def test_a_file_of_either_engine_plays_on_the_other(tmp_path):
    writes, reads = (DvcRuntime(model(), device=f"{d}:cpu") for d in ("onnxruntime", "openvino"))
    header = Header("dvc-tiny", writes.model_hash, WIDTH, HEIGHT, Fraction(1, 25), 3, 0)
    pictures = moving_pictures(5, WIDTH, HEIGHT)
    with (
        LvcWriter(tmp_path / "a.lvc", header) as writer,
        Recorder(writes, writer, quality=0) as recorder,
    ):
        for i, picture in enumerate(pictures):
            recorder.add(picture, pts=i, capture_ns=i)
    played = []
    for codec in (writes, reads):
        with LvcReader(tmp_path / "a.lvc") as reader:
            player = Player(codec, reader)
            played.append(list(player.pictures()))
            assert player.refused == []
    assert [p.intra for p in played[0]] == [True, False, False, True, False]
    for one, other in zip(*played, strict=True):
        assert one.picture.y.shape == (HEIGHT, WIDTH)
        assert one.picture.u.shape == (HEIGHT // 2, WIDTH // 2)
        assert np.abs(one.picture.y.astype(int) - other.picture.y).max() <= 2


@pytest.mark.parametrize("precision", [None, "bf16"])
def test_symbols_are_the_same_whatever_the_engine(precision):
    writes = DvcRuntime(model(), device="onnxruntime:cpu")
    reads = DvcRuntime(model(), device="openvino:cpu", precision=precision)
    state, counts = None, []
    for picture in moving_pictures(3, WIDTH, HEIGHT):
        inter = state is not None
        payload, state = writes.compress(picture, state, quality=0)
        one = writes.parse(payload, inter=inter, width=WIDTH, height=HEIGHT)
        other = reads.parse(payload, inter=inter, width=WIDTH, height=HEIGHT)
        assert one.keys() == other.keys() == ({"m", "z", "y"} if inter else {"z", "y"})
        for name, symbols in one.items():
            np.testing.assert_array_equal(symbols, other[name])
            counts.append(np.count_nonzero(symbols))
    assert min(counts) > 0


def test_damage_is_refused():
    codec = DvcRuntime(model(), device="onnxruntime:cpu")
    payload, _ = codec.compress(moving_pictures(1, 64, 64)[0], None, quality=0)
    with pytest.raises(BitstreamError, match="dvc-tiny intra frame: side part of 255 bytes"):
        codec.parse(b"\xff\x01" + payload, inter=False, width=64, height=64)


def test_it_has_one_quality():
    with pytest.raises(ValueError, match=r"quality must be 0\.\.0, got 1"):
        DvcRuntime(model()).compress(moving_pictures(1, 64, 64)[0], None, quality=1)
