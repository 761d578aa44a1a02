"""Packing, drawing, training, stopping and going on: all of it small, on the CPU."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from codec_tiny import TINY, moving_pictures

from engines.codec import recipe, train, training
from engines.codec.checkpoint import load_average, load_checkpoint, read_tensors
from engines.codec.colour import bgr_from_planes
from engines.codec.pack import HELD_BACK, Clip, Packer, recorded_clips, validation_clips
from engines.codec.rt import RtCodec, planes_to_blocks
from engines.codec.shards import Sampler, load_clips
from engines.codec.textures import Layer, Motion, Scene, draw_scene


def jpeg(seed: int, width: int = 200, height: int = 196) -> bytes:
    picture = moving_pictures(seed + 1, width, height)[seed]
    return cv2.imencode(".jpg", bgr_from_planes(picture.y, picture.u, picture.v))[1].tobytes()


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    for prefix, length in (("train", 16), ("held", 2)):
        packer = Packer(folder, prefix)
        packer.add(Clip("davis", [jpeg(i) for i in range(length)]))
        packer.add(Clip("stills", [jpeg(3)]))
        packer.flush()
    return folder


@pytest.fixture
def tiny_training(monkeypatch, shards, tmp_path) -> argparse.Namespace:
    monkeypatch.setitem(train.CONFIGS, "rt-nano", TINY)
    stages = (recipe.Stage(0.7, 64, 1, 1, 1.0), recipe.Stage(1.0, 64, 3, 2, 0.5))
    monkeypatch.setattr(train, "STAGES", stages)
    return argparse.Namespace(
        data=shards, out=tmp_path / "run", size="nano", minutes=0.03, stop_after=None,
        steps=None, rewind=None, batch=2, learning_rate=1e-3, device="cpu", eager=True,
        threads=1, workers=0, save_minutes=0.01, evaluate_minutes=10, seed=1,
    )  # fmt: skip


def test_training_imports_torch_numpy_and_cv2_alone():
    code = (
        "import sys, engines.codec.train;"
        "print(sorted({'constriction', 'av', 'onnx', 'onnxruntime', 'openvino', 'streamer'}"
        " & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_shards_give_back_the_frames(shards):
    clips = load_clips(shards, "train")
    assert [c.y.shape for c in clips] == [(16, 196, 200), (1, 196, 200)]
    assert [c.group for c in clips] == [0, 5]
    want = moving_pictures(5, 200, 196)[4]
    assert np.abs(clips[0].y[4].astype(int) - want.y).mean() < 6
    assert 16 <= clips[0].y.min() <= clips[0].y.max() <= 235


def test_batches_are_crops_and_are_drawn_alike_by_number(shards):
    sampler = Sampler(load_clips(shards, "train"), seed=7)
    y, u, v = sampler.batch(3, size=5, frames=4, crop=64)
    assert y.shape == (4, 5, 1, 64, 64)
    assert u.shape == v.shape == (4, 5, 1, 32, 32)
    np.testing.assert_array_equal(y, sampler.batch(3, size=5, frames=4, crop=64)[0])
    assert not np.array_equal(y, sampler.batch(4, size=5, frames=4, crop=64)[0])


def test_missing_shards_are_named(tmp_path):
    with pytest.raises(SystemExit, match=r"no train-\*\.npz; make them with engines\.codec\.pack"):
        load_clips(tmp_path, "train")


def test_held_back_sequences_are_never_packed_for_training(data_dir):
    held = {f.read_bytes() for n in HELD_BACK for f in (data_dir / "davis" / n).glob("*.jpg")}
    assert len(held) == 168
    packed = {frame for clip in recorded_clips(data_dir) for frame in clip.frames}
    assert not held & packed
    assert sum(map(len, packed)) < 34 << 20
    shown = [frame for clip in validation_clips(data_dir) for frame in clip.frames]
    assert len(shown) == 39 + 13
    assert len(set(shown) & held) == 39


def test_training_goes_on_where_it_stopped(tiny_training):
    tiny_training.stop_after = 0.01
    training.run(train.RtTrainer(tiny_training), tiny_training)
    tensors, meta = read_tensors(tiny_training.out)
    assert 0 < meta["trained_s"] < 0.03 * 60
    sizes = [f.stat().st_size for f in tiny_training.out.glob("step-*.pt")]
    assert max(sizes) < 16 << 20
    codec = RtCodec(TINY)
    assert load_average(tiny_training.out, codec) == meta["step"]
    name, weight = next(iter(codec.named_parameters()))
    average = tensors[f"weight/{name}"] + tensors[f"ema/{name}"].float()
    torch.testing.assert_close(weight.detach(), average)
    tiny_training.stop_after = None
    training.run(train.RtTrainer(tiny_training), tiny_training)
    _, later = read_tensors(tiny_training.out)
    assert later["step"] > meta["step"]
    assert later["trained_s"] >= 0.03 * 60
    lines = (tiny_training.out / "log.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["frames"] for row in rows if "frames" in row][-1] == 3
    points = [row["held"] for row in rows if "held" in row][-1]
    assert [p["quality"] for p in points] == list(train.HELD_QUALITIES)


def test_training_lowers_the_loss(tiny_training):
    trainer = train.RtTrainer(tiny_training)
    trainer.peak, trainer.step = 3e-3, 200
    sampler = Sampler(load_clips(tiny_training.data, "train"), seed=1)
    batch = sampler.batch(0, size=2, frames=2, crop=64)
    stage = recipe.Stage(1, 64, 2, 2, 1)
    batch = trainer.prepare(batch)
    losses = [trainer.train_clip(batch, stage, np.random.default_rng(0)).loss for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]


def test_a_resumed_trainer_has_the_same_weights_and_moments(tiny_training):
    tiny_training.stop_after = 0.02
    training.run(train.RtTrainer(tiny_training), tiny_training)
    one, other = train.RtTrainer(tiny_training), train.RtTrainer(tiny_training)
    assert load_checkpoint(tiny_training.out, one)
    assert load_checkpoint(tiny_training.out, other)
    assert one.step == other.step > 0
    assert len(one.optimiser.state) > 20
    batch = Sampler(load_clips(tiny_training.data, "train"), seed=1).batch(
        0, size=2, frames=2, crop=128
    )
    batch = one.prepare(batch)
    stage = recipe.Stage(1, 128, 2, 2, 1)
    reports = []
    for trainer in (one, other):
        torch.manual_seed(0)
        reports.append(trainer.train_clip(batch, stage, np.random.default_rng(0)))
    assert reports[0] == reports[1]


def test_a_batch_gets_the_motion_of_its_frames(tiny_training):
    trainer = train.RtTrainer(tiny_training)
    luma = np.stack([p.y for p in moving_pictures(3, 64, 64)])[:, None, None]
    chroma = luma[..., ::2, ::2]
    *planes, vectors = trainer.prepare((luma, chroma, chroma))
    assert [p.shape for p in planes] == [luma.shape, chroma.shape, chroma.shape]
    assert vectors.shape == (3, 1, 4, 4, 2)
    assert not vectors[0].any()
    np.testing.assert_array_equal(np.median(vectors[1:], (0, 1, 2, 3)), [8, 0])
    picture = planes_to_blocks(*(torch.from_numpy(p[0]).float() for p in planes))
    change = trainer.coder.change(picture, vectors[1])
    want = planes_to_blocks(*(torch.from_numpy(p[1]).float() for p in planes)) - picture
    assert float((change - want).abs().mean()) < 0.3 * float(want.abs().mean())


def test_a_trial_ends_after_its_steps(tiny_training):
    tiny_training.steps, tiny_training.rewind = 3, 0.8
    trainer = train.RtTrainer(tiny_training)
    training.run(trainer, tiny_training)
    assert 3 <= trainer.step <= 4
    assert trainer.stage.frames == 3


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # asked for by the compiler itself
def test_both_ways_through_the_network_compile_without_a_break():
    torch._dynamo.reset()
    codec = RtCodec(TINY).train()
    whole = {"backend": "aot_eager", "fullgraph": True, "dynamic": False}
    intra = torch.compile(codec.intra_tensors, **whole)
    inter = torch.compile(codec.inter_tensors, **whole)
    blocks, quality = torch.rand(2, 96, 8, 8) - 0.5, torch.randint(0, 64, (2, 4, 4))
    with torch.autocast("cpu", torch.bfloat16):
        picture, memory, q, _, _, bits = intra(blocks, quality)
        change = torch.rand(2, 96, 8, 8) - 0.5
        picture, memory, q, _, _, bits = inter(blocks, memory, change, q.detach().abs(), quality)
    (bits.mean() + picture.float().square().mean()).backward()
    assert codec.frame.no_context.grad is not None
    assert codec.memory_gain.log_gains.grad is not None
    assert codec.carry.weight.grad is not None


def test_things_move_as_their_motion_says():
    rng = np.random.default_rng(1)
    picture = rng.integers(0, 256, (480, 640, 3)).astype(np.uint8)
    motion = Motion(np.array([3.0, -2.0]), 0.0, 0.0)
    layer = Layer(picture, np.full((480, 640), 255, np.uint8), np.array([160.0, 120.0]), motion)
    first, second = (Scene((layer,)).render(step) for step in (0, 1))
    np.testing.assert_array_equal(first, picture[120:360, 160:480])
    np.testing.assert_array_equal(second[:-2, 3:], first[2:, :-3])


def test_a_drawn_scene_is_the_same_again_and_has_something_in_front():
    scenes = [draw_scene(np.random.default_rng(5), []) for _ in range(2)]
    one, other = (scene.render(4) for scene in scenes)
    np.testing.assert_array_equal(one, other)
    assert one.shape == (240, 320, 3)
    assert len(scenes[0].layers) > 1
    assert not np.array_equal(one, Scene(scenes[0].layers[:1]).render(4))


def test_a_folder_without_a_checkpoint_is_named(tmp_path):
    with pytest.raises(SystemExit, match=r"no checkpoint step-\*\.last\.pt; train one with"):
        load_average(tmp_path, RtCodec(TINY))


def test_a_checkpoint_without_its_last_part_is_not_one(tiny_training):
    tiny_training.stop_after = 0.01
    training.run(train.RtTrainer(tiny_training), tiny_training)
    for part in tiny_training.out.glob("step-*.last.pt"):
        part.unlink()
    assert read_tensors(tiny_training.out) is None


def test_learning_rate_warms_up_and_falls():
    assert recipe.learning_rate_at(0, 0, 1.0) == pytest.approx(1 / 200)
    assert recipe.learning_rate_at(0, 500, 1.0) == pytest.approx(1)
    assert recipe.learning_rate_at(1, 500, 1.0) == pytest.approx(0.02)


def test_stages_follow_progress():
    assert recipe.stage_at(0, recipe.STAGES).frames == 1
    assert recipe.stage_at(1.0, recipe.STAGES) is recipe.STAGES[-1]
    assert [s.until for s in recipe.STAGES] == sorted(s.until for s in recipe.STAGES)
    assert all(s.crop % 64 == 0 and s.crop <= 224 for s in recipe.STAGES)
