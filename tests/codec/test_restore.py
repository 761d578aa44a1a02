"""Weights that come back from an exported model, and networks that grow without a change."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from codec_tiny import TINY, lively_codec
from test_rt import random_blocks

from engines.codec import restore
from engines.codec.checkpoint import load_average
from engines.codec.export import density_counts, export_model
from engines.codec.rt import Z_LIMIT, RtCodec


@pytest.fixture(scope="module")
def trained() -> RtCodec:
    """A codec of which no two weights are alike, as after a training."""
    codec = lively_codec()
    for parameter in codec.parameters():
        parameter.data += 0.01 * torch.randn_like(parameter)
    return codec


@pytest.fixture(scope="module")
def model(trained, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    export_model(trained, folder)
    return folder


def test_a_codec_comes_back_from_its_model(trained, model):
    codec = RtCodec(TINY)
    restore.restore(codec, model)
    want = trained
    for (name, one), other in zip(codec.named_parameters(), want.parameters(), strict=True):
        if name.startswith("frame.density."):
            continue
        tolerance = 1 / 128 if ".h_s_scales." in name else 1e-3 if one.numel() < 256 else 0
        torch.testing.assert_close(one, other, atol=tolerance, rtol=0, msg=name)
    for one, other in zip(codec.frame.density, want.frame.density, strict=True):
        for a, b in zip(*(density_counts(d, 4, Z_LIMIT) for d in (one, other)), strict=True):
            lost_bits = (b * np.log2(b / a)).sum() / b.sum()
            assert lost_bits < 0.05


def test_another_size_is_refused(model):
    wide = dataclasses.replace(TINY, channels=24)
    with pytest.raises(
        SystemExit, match=r"must be \(.*\), got \(.*\); it is a model of another size"
    ):
        restore.restore(RtCodec(wide), model)


def test_a_grown_codec_computes_the_same_and_can_learn_more():
    small = lively_codec()
    config = dataclasses.replace(TINY, channels=24, context_blocks=2, head_blocks=2)
    large = RtCodec(config)
    restore.grow(small, large)
    blocks, change = random_blocks(1, 64, 128), random_blocks(1, 64, 128)
    quality = torch.tensor([40])
    results = []
    for codec in (small.eval(), large.eval()):
        first = codec(blocks, None, quality)
        results.append((first, codec(change, first.state, quality, change=change - blocks)))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one.blocks, other.blocks)
        torch.testing.assert_close(one.bits, other.bits)
        assert torch.equal(one.q, other.q)
    second = results[1][1]
    (second.bits.sum() + second.blocks.square().sum()).backward()
    for name in ("leave.weight", "context.0.enter.weight", "frame.to_y.weight"):
        assert large.get_parameter(name).grad[:, 16:].any(), name


def test_a_run_begins_at_the_model(model, tmp_path, monkeypatch):
    monkeypatch.setitem(restore.CONFIGS, "rt-nano", TINY)
    monkeypatch.setattr(restore, "FIT_STEPS", 20)
    arguments = ["restore", "--model", str(model), "--out", str(tmp_path / "run")]
    monkeypatch.setattr("sys.argv", arguments)
    restore.main()
    codec = RtCodec(TINY)
    assert load_average(tmp_path / "run", codec) == 0
    want = RtCodec(TINY)
    restore.restore(want, model, densities=False)
    torch.testing.assert_close(codec.leave.weight, want.leave.weight)
