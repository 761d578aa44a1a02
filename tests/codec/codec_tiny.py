"""A tiny untrained rt codec and its exported model, shared by the tests of this folder."""

from __future__ import annotations

import atexit
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from engines.codec.base import Picture
from engines.codec.export import export_model
from engines.codec.rt import RtCodec, RtConfig

TINY = RtConfig(
    name="rt-tiny",
    channels=16,
    latents=20,
    hyper=4,
    prior=8,
    analysis_blocks=1,
    synthesis_blocks=1,
    context_blocks=1,
    head_blocks=1,
    hidden=8,
    knots=4,
)


def lively_codec() -> RtCodec:
    """A tiny codec whose untrained symbols use many scales, and whose z is not all zero."""
    torch.manual_seed(3)
    torch.set_num_threads(1)
    codec = RtCodec(TINY)
    codec.frame.h_a[-1].weight.data.mul_(60)
    codec.frame.to_y.weight.data.mul_(6)
    return codec


@cache
def tiny_model() -> Path:
    """Folder of the exported tiny codec, for as long as the tests run."""
    folder = TemporaryDirectory()
    atexit.register(folder.cleanup)
    export_model(lively_codec(), Path(folder.name))
    return Path(folder.name)


def moving_pictures(count: int, width: int, height: int) -> list[Picture]:
    """A textured ramp that moves two pixels a frame, with chroma; deterministic."""
    rng = np.random.default_rng(5)
    coarse = rng.integers(30, 220, (height // 8 + 3, (width + 2 * count) // 8 + 3))
    texture = np.kron(coarse, np.ones((8, 8))).astype(np.uint8)
    half_h, half_w = (height + 1) // 2, (width + 1) // 2
    return [
        Picture(
            texture[:height, 2 * i : 2 * i + width],
            np.ascontiguousarray(texture[1 : 2 * half_h : 2, 2 * i : 2 * i + 2 * half_w : 2]),
            np.full((half_h, half_w), 110 + i % 20, np.uint8),
        )
        for i in range(count)
    ]
