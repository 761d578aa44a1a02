"""Training the dvc codec: its three parts in order, on the CPU, and what is shipped of it."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from codec_tiny import moving_pictures

from engines.codec import train_dvc
from engines.codec.checkpoint import read_tensors
from engines.codec.colour import bgr_from_planes
from engines.codec.dvc import NARROW, DvcCodec, DvcConfig
from engines.codec.dvc_export import export_dvc
from engines.codec.pack import Clip, Packer
from engines.codec.shards import Sampler, load_clips
from engines.codec.train_dvc import STAGES, DvcTrainer
from engines.codec.training import run

TINY = DvcConfig(name="dvc-tiny", residual=8, latents=6, motion=8, flow=(8, 8, 8, 8))


def jpeg(seed: int) -> bytes:
    picture = moving_pictures(seed + 1, 200, 196)[seed]
    return cv2.imencode(".jpg", bgr_from_planes(picture.y, picture.u, picture.v))[1].tobytes()


@pytest.fixture
def options(monkeypatch, tmp_path) -> argparse.Namespace:
    monkeypatch.setitem(train_dvc.CONFIGS, "narrow", TINY)
    for prefix in ("train", "held"):
        packer = Packer(tmp_path, prefix)
        packer.add(Clip("davis", [jpeg(i) for i in range(6 if prefix == "train" else 2)]))
        packer.flush()
    return argparse.Namespace(
        data=tmp_path, out=tmp_path / "run", width="narrow", lagrangian=256, start_from=None,
        minutes=10, stop_after=None, steps=2, rewind=None, batch=2, learning_rate=2e-3,
        device="cpu", eager=True, threads=1, workers=0, save_minutes=9, evaluate_minutes=9, seed=1,
    )  # fmt: skip


def changed(trainer: DvcTrainer, before: dict[str, torch.Tensor]) -> set[str]:
    """Parts of the codec whose weights have moved."""
    return {
        ".".join(name.split(".")[:2]) if name.startswith("inter") else "intra"
        for name, p in trainer.codec.named_parameters()
        if not torch.equal(p.detach(), before[name])
    }


def test_motion_is_learned_first_then_all_of_it(options):
    trainer = DvcTrainer(options)
    sampler = Sampler(load_clips(options.data, "train"), seed=1)
    parts = []
    for stage in (STAGES[0], STAGES[1]):
        before = {n: p.detach().clone() for n, p in trainer.codec.named_parameters()}
        batch = trainer.prepare(sampler.batch(0, size=2, frames=2, crop=64))
        trainer.train_clip(batch, stage, np.random.default_rng(0))
        parts.append(changed(trainer, before))
    motion = {"intra", "inter.flow", "inter.motion_encoder", "inter.motion_decoder"}
    assert parts[0] == motion | {"inter.motion_density"}
    assert parts[1] == parts[0] | {"inter.compensation", "inter.residual"}
    assert [s.task for s in STAGES] == ["motion", "reconstruction", "joint", "joint"]


def test_the_flow_learns_from_its_teacher(options):
    trainer = DvcTrainer(options)
    trainer.step, trainer.peak = 200, 3e-3
    batch = Sampler(load_clips(options.data, "train"), seed=1).batch(0, size=2, frames=2, crop=64)
    *planes, flows = trainer.prepare(batch)
    assert flows.shape == (2, 2, 2, 64, 64)
    assert not flows[0].any()
    assert np.abs(flows[1]).mean() > 0.5
    now, before = (trainer.picture(tuple(p[t] for p in planes)) for t in (1, 0))

    def distance() -> float:
        with torch.no_grad():
            flow = trainer.codec.inter.flow(now, before)
        return float((flow - torch.from_numpy(flows[1])).abs().mean())

    start = distance()
    for _ in range(25):
        trainer.train_clip((*planes, flows), STAGES[0], np.random.default_rng(0))
    assert distance() < 0.8 * start


def test_training_lowers_the_loss(options):
    trainer = DvcTrainer(options)
    trainer.step = 200
    batch = Sampler(load_clips(options.data, "train"), seed=1).batch(0, size=2, frames=3, crop=64)
    batch = trainer.prepare(batch)
    stage = train_dvc.DvcStage(1, 64, 3, 1, 1, "joint")
    losses = [trainer.train_clip(batch, stage, np.random.default_rng(0)).loss for _ in range(12)]
    assert losses[-1] < 0.6 * losses[0]


def test_a_run_is_saved_and_another_lambda_starts_from_it(options, tmp_path):
    first = DvcTrainer(options)
    run(first, options)
    tensors, meta = read_tensors(options.out)
    assert meta["step"] == first.step == 2
    options.start_from, options.out = options.out, tmp_path / "other"
    second = DvcTrainer(options)
    assert second.stage is STAGES[2]
    name, weight = next(iter(second.codec.named_parameters()))
    average = tensors[f"weight/{name}"] + tensors[f"ema/{name}"].float()
    torch.testing.assert_close(weight.detach(), average)
    assert '"lagrangian": 256' in (tmp_path / "run" / "log.jsonl").read_text()


def test_the_way_through_the_networks_compiles_without_a_break():
    torch._dynamo.reset()
    codec = DvcCodec(replace(TINY, flow_levels=2)).train()
    whole = {"backend": "aot_eager", "fullgraph": True, "dynamic": False}
    now = torch.rand(1, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        bits = torch.compile(codec.inter.tensors, **whole)(now, now.roll(1, 3))[3]
    bits.mean().backward()
    assert codec.inter.flow.levels[0][0].weight.grad is not None


def test_the_narrow_codec_can_be_shipped(tmp_path: Path):
    export_dvc(DvcCodec(NARROW), tmp_path)
    assert sum(f.stat().st_size for f in tmp_path.iterdir()) <= 1_000_000
