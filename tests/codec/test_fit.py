"""Tables and scales that are fitted to what a codec really codes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from codec_tiny import lively_codec, moving_pictures

from engines.codec import fit
from engines.codec.colour import bgr_from_planes
from engines.codec.entropy import TOTAL
from engines.codec.export import export_model, laplace_counts
from engines.codec.fit import VALUE_REACH, Observed, Statistics
from engines.codec.pack import Clip, Packer
from engines.codec.rt import INTER, INTRA, RtCodec
from engines.codec.runtime import RtRuntime


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    packer = Packer(folder, "train")
    pictures = [bgr_from_planes(p.y, p.u, p.v) for p in moving_pictures(16, 208, 200)]
    packer.add(Clip("davis", [cv2.imencode(".jpg", p)[1].tobytes() for p in pictures]))
    packer.flush()
    return folder


@pytest.fixture(scope="module")
def codec() -> RtCodec:
    return lively_codec().eval()


@pytest.fixture(scope="module")
def frames(codec: RtCodec, shards: Path) -> list[Observed]:
    return list(fit.observe(codec, shards, clips=3))


def bits(codec: RtCodec, frames: list[Observed]) -> float:
    with torch.no_grad():
        return sum(float(fit._bits(codec, seen)) for seen in frames)


def test_frames_are_what_a_codec_codes(frames: list[Observed]) -> None:
    assert [seen.kind for seen in frames].count(INTRA) == 3
    first = next(seen for seen in frames if seen.kind == INTRA)
    assert not first.z_before.any()
    assert any(seen.z_before.any() for seen in frames if seen.kind == INTER)
    for seen in frames:
        assert (seen.q == seen.q.round()).all()
        assert seen.q.shape[2:] == seen.quality.shape[1:] == (12, 12)


def test_fitting_saves_bits_and_changes_nothing_else(shards: Path) -> None:
    codec = lively_codec().eval()
    frames = list(fit.observe(codec, shards, clips=3))
    before = bits(codec, frames)
    pictures = codec.leave.weight.detach().clone()
    fit.fit_scales(codec, frames, steps=40)
    assert bits(codec, frames) < 0.97 * before
    assert (codec.leave.weight == pictures).all()


def test_symbols_are_counted_by_what_chooses_their_table(
    codec: RtCodec, frames: list[Observed]
) -> None:
    seen = fit.count(codec, frames)
    assert seen.q.sum() == sum(int((f.q.abs() <= VALUE_REACH).sum()) for f in frames)
    assert seen.z[INTRA].sum() == sum(f.z.numel() for f in frames if f.kind == INTRA)
    assert seen.z[INTER].sum() == sum(f.z.numel() for f in frames if f.kind == INTER)
    first = frames[0]
    index = codec.frame.h_s_scales(first.z, first.magnitudes, first.quality, first.q)
    alone = fit.count(codec, [first])
    for level in index.unique().int().tolist():
        assert alone.q[level, VALUE_REACH] == ((index == level) & (first.q == 0)).sum()


def test_a_table_is_the_assumed_one_until_something_is_seen() -> None:
    nothing = np.zeros(2 * VALUE_REACH + 1, np.int64)
    assert (
        np.abs(laplace_counts(20, nothing).astype(int) - laplace_counts(20).astype(int)).max() < 9
    )
    nothing[VALUE_REACH + 1] = 10**6
    counts = laplace_counts(20, nothing)
    middle = len(counts) // 2 - 1
    assert counts.sum() == TOTAL
    assert abs(int(counts[middle + 1]) - int(counts[middle - 1])) < 99
    assert counts[middle + 1] > 0.49 * TOTAL


def test_a_fitted_model_takes_fewer_bytes(
    codec: RtCodec, frames: list[Observed], tmp_path: Path
) -> None:
    sizes = {}
    for name, seen in (("assumed", None), ("fitted", fit.count(codec, frames))):
        export_model(codec, tmp_path / name, seen)
        runtime, state, sizes[name] = RtRuntime(tmp_path / name), None, 0
        for picture in moving_pictures(4, 208, 200):
            payload, state = runtime.compress(picture, state, quality=30)
            sizes[name] += len(payload)
    assert sizes["fitted"] < sizes["assumed"]


def test_what_was_seen_has_a_place_for_every_symbol(codec: RtCodec, frames: list[Observed]) -> None:
    seen: Statistics = fit.count(codec, frames)
    assert seen.z[INTER].shape == (4, 5, 31)
    assert seen.q.shape == (64, 2 * VALUE_REACH + 1)
