"""Train the `rt` codec from packed shards, on a CPU thread or on one GPU; offline.

    python -m engines.codec.train --data SHARDS --out RUN --minutes 60

Needs torch, numpy and cv2 alone. Progress is counted in minutes of training (on a CPU: of the main
thread's processor time) over all runs with one --out folder, so that the same command resumes where
the last one was stopped: clips grow longer and the learning rate falls by that progress.
`--stop-after` ends one run early and saves.

The loss of a frame is bits a pixel + lambda(quality) * (6 mse_y + mse_u + mse_v) / 8, with a
quality drawn for each clip and moved for each frame by schedule.quality_offset; in half of the
steps a rectangle of each picture has another quality, as an encoder may ask. The rate sees
uniform noise where the picture sees straight-through rounding.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engines.codec.checkpoint import Ema, load_checkpoint, save_checkpoint
from engines.codec.recipe import (
    EMPHASIS_PROBABILITY,
    Stage,
    distortion,
    draw_emphasis,
    learning_rate_at,
    stage_at,
)
from engines.codec.rt import (
    CONFIGS,
    MAGNITUDE_LIMIT,
    QUALITIES,
    RtCodec,
    blocks_to_planes,
    lagrangian,
    planes_to_blocks,
)
from engines.codec.schedule import quality_offset
from engines.codec.shards import Batch, Clip, Sampler, load_clips

GRADIENT_NORM = 1.0
REFRESH_PROBABILITY = 0.1
MEMORY_NOISE = 0.01
"""Relative size of the noise that stands for the rounding errors of another machine."""
HELD_QUALITIES = (4, 20, 36, 52)


class Coder:
    """Runs frames of a codec in bfloat16; compiled on a GPU."""

    def __init__(self, codec: RtCodec, device: torch.device, *, compiled: bool) -> None:
        self.codec, self.device = codec, device
        self._intra = (
            torch.compile(codec.intra_tensors, dynamic=False) if compiled else codec.intra_tensors
        )
        self._inter = (
            torch.compile(codec.inter_tensors, dynamic=False) if compiled else codec.inter_tensors
        )

    def intra(self, blocks: Tensor, quality: Tensor) -> tuple[Tensor, ...]:
        """See RtCodec.intra_tensors."""
        with torch.autocast(self.device.type, torch.bfloat16):
            return self._intra(blocks, quality)

    def inter(
        self, blocks: Tensor, memory: Tensor, magnitudes: Tensor, quality: Tensor
    ) -> tuple[Tensor, ...]:
        """See RtCodec.inter_tensors."""
        with torch.autocast(self.device.type, torch.bfloat16):
            return self._inter(blocks, memory, magnitudes, quality)

    def refresh(self, memory: Tensor) -> Tensor:
        """See RtCodec.refresh."""
        with torch.autocast(self.device.type, torch.bfloat16):
            return self.codec.refresh(memory)

    def blocks(self, planes: tuple[np.ndarray, ...]) -> Tensor:
        """Blocks of planes (B, 1, h, w)."""
        y, u, v = (torch.from_numpy(p).to(self.device, non_blocking=True).float() for p in planes)
        return planes_to_blocks(y, u, v).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True, slots=True)
class StepReport:
    """Means over one clip."""

    loss: float
    bpp: float
    psnr_db: float


class Trainer:
    """Codec, optimiser, moving average and progress: all that a checkpoint holds."""

    def __init__(self, options: argparse.Namespace) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(options.device or device)
        torch.manual_seed(options.seed)
        self.codec = RtCodec(CONFIGS[f"rt-{options.size}"])
        self.codec.to(self.device, memory_format=torch.channels_last)
        on_gpu = self.device.type == "cuda"
        self.coder = Coder(self.codec, self.device, compiled=on_gpu and not options.eager)
        self.optimiser = torch.optim.AdamW(
            self.codec.parameters(), lr=0.0, betas=(0.9, 0.99), weight_decay=0.0, fused=on_gpu
        )
        self.ema = Ema(self.codec)
        self.peak = options.learning_rate
        self.budget_s = options.minutes * 60
        self.trained_s = 0.0
        self.step = 0
        # a processor is shared with others, and what they take is no progress
        self.clock = time.monotonic if on_gpu else time.thread_time

    @property
    def progress(self) -> float:
        """Share of the budget that is spent, 0..1."""
        return float(min(1.0, self.trained_s / self.budget_s))

    def train_clip(self, batch: Batch, stage: Stage, rng: np.random.Generator) -> StepReport:
        """Train on one batch of clips, with one step of the optimiser for each window."""
        self.codec.train()
        count = batch[0].shape[1]
        base = torch.from_numpy(rng.integers(0, QUALITIES, count))[:, None, None]
        if rng.random() < EMPHASIS_PROBABILITY:
            base = base + draw_emphasis(rng, count, stage.crop)
        else:
            base = base.expand(-1, stage.crop // 16, stage.crop // 16)
        base = base.to(self.device)
        memory = magnitudes = None
        window_loss = torch.zeros((), device=self.device)
        losses, rates, errors = [], [], []
        for t in range(stage.frames):
            blocks = self.coder.blocks(tuple(p[t] for p in batch))
            quality = (base + quality_offset(t)).clamp(0, QUALITIES - 1)
            if memory is None or magnitudes is None:
                picture, memory, q, _, _, bits = self.coder.intra(blocks, quality)
                magnitudes = torch.zeros_like(q).detach()
            else:
                memory = self._disturb(memory, rng)
                picture, memory, q, _, _, bits = self.coder.inter(
                    blocks, memory, magnitudes, quality
                )
                magnitudes = q.detach().abs().clamp_max(MAGNITUDE_LIMIT)
            error = distortion(picture, blocks)
            bpp = bits / batch[0][0, 0].size
            weight = lagrangian(quality)
            fine = weight.repeat_interleave(2, 1).repeat_interleave(2, 2)
            costs = bpp + (fine * error).mean((1, 2))
            # the square root keeps the best qualities from drowning the others
            loss = (costs / (weight.mean((1, 2)) / 0.01).sqrt().clamp_min(0.5)).mean()
            window_loss = window_loss + loss
            losses.append(loss.detach())
            rates.append(bpp.detach().mean())
            errors.append(error.detach().mean())
            if (t + 1) % stage.window == 0 or t + 1 == stage.frames:
                self._update(window_loss / stage.window)
                window_loss = torch.zeros((), device=self.device)
                memory = memory.detach()
        mse = float(torch.stack(errors).mean())
        return StepReport(
            float(torch.stack(losses).mean()),
            float(torch.stack(rates).mean()),
            10 * float(np.log10(255**2 / mse)),
        )

    def _disturb(self, memory: Tensor, rng: np.random.Generator) -> Tensor:
        if rng.random() < REFRESH_PROBABILITY:
            memory = self.coder.refresh(memory)
        noise = torch.randn_like(memory) * memory.detach().float().std() * MEMORY_NOISE
        return memory + noise.to(memory.dtype)

    def _update(self, loss: Tensor) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate_at(self.progress, self.step, self.peak)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.codec.parameters(), GRADIENT_NORM)
        if bool(torch.isfinite(norm)):
            self.optimiser.step()
            self.ema.update(self.codec, self.step)
        self.step += 1

    def evaluate(self, clips: list[Clip]) -> list[dict[str, float]]:
        """Bits (estimated) and PSNR of the averaged weights on held-back clips, by quality."""
        self.codec.eval()
        points = []
        coder = Coder(self.codec, self.device, compiled=False)
        with self.ema.applied_to(self.codec), torch.no_grad():
            for quality in HELD_QUALITIES:
                results = np.array([_measure(coder, clip, quality) for clip in clips])
                bpp, psnr, intra_bpp, intra_psnr = results.mean(0)
                points.append(
                    {
                        "quality": quality,
                        "bpp": round(float(bpp), 4),
                        "psnr_yuv_db": round(float(psnr), 3),
                        "intra_bpp": round(float(intra_bpp), 4),
                        "intra_psnr_yuv_db": round(float(intra_psnr), 3),
                    }
                )
        return points


def pad_planes(clip: Clip, t: int) -> tuple[np.ndarray, ...]:
    """Planes (1, 1, h, w) of one frame, grown to multiples of 64 by repeating the edge."""
    height, width = clip.y.shape[1:]
    down, right = -height % 64, -width % 64
    grow = [(p, d) for p, d in ((clip.y, 1), (clip.u, 2), (clip.v, 2))]
    return tuple(
        np.pad(p[t], ((0, down // d), (0, right // d)), mode="edge")[None, None] for p, d in grow
    )


def _measure(coder: Coder, clip: Clip, base: int) -> tuple[float, float, float, float]:
    height, width = clip.y.shape[1:]
    memory = magnitudes = None
    bpps, psnrs = [], []
    for t in range(len(clip.y)):
        blocks = coder.blocks(pad_planes(clip, t))
        quality = torch.tensor([min(base + quality_offset(t), QUALITIES - 1)]).to(coder.device)
        if memory is None or magnitudes is None:
            picture, memory, q, _, _, bits = coder.intra(blocks, quality)
            magnitudes = torch.zeros_like(q)
        else:
            picture, memory, q, _, _, bits = coder.inter(blocks, memory, magnitudes, quality)
            magnitudes = q.abs().clamp_max(MAGNITUDE_LIMIT)
        decoded = blocks_to_planes(picture)
        errors = []
        for plane, truth in zip(decoded, (clip.y, clip.u, clip.v), strict=True):
            rows, columns = truth.shape[1:]
            seen = plane[0, 0, :rows, :columns].round().clamp(0, 255).cpu().numpy()
            errors.append(10 * np.log10(255**2 / max(np.mean((seen - truth[t]) ** 2), 1e-3)))
        psnrs.append((6 * errors[0] + errors[1] + errors[2]) / 8)
        bpps.append(float(bits) / (height * width))
    return float(np.mean(bpps)), float(np.mean(psnrs)), bpps[0], float(psnrs[0])


def prefetch(draw: Callable[[int], Batch], start: int, workers: int) -> Iterator[Batch]:
    """Batches in order from `start` on, some of them drawn ahead by threads."""
    if workers == 0:
        while True:
            yield draw(start)
            start += 1
    with ThreadPoolExecutor(workers) as pool:
        ahead = [pool.submit(draw, start + i) for i in range(2 * workers)]
        while True:
            yield ahead.pop(0).result()
            ahead.append(pool.submit(draw, start + 2 * workers))
            start += 1


class Log:
    """Prints rows of JSON and appends them to RUN/log.jsonl."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reports: list[StepReport] = []

    def add(self, report: StepReport) -> None:
        """Keep the report of one clip for the next row."""
        self._reports.append(report)

    def write_reports(self, trainer: Trainer, stage: Stage) -> None:
        """Write the mean of the reports since the last time."""
        if not self._reports:
            return
        means = np.mean([[r.loss, r.bpp, r.psnr_db] for r in self._reports], axis=0)
        loss, bpp, psnr = (round(float(mean), 4) for mean in means)
        self.write(
            step=trainer.step,
            minutes=round(trainer.trained_s / 60, 1),
            crop=stage.crop,
            frames=stage.frames,
            clips=len(self._reports),
            loss=loss,
            bpp=bpp,
            psnr_db=psnr,
        )
        self._reports.clear()

    def write(self, **row: object) -> None:
        """Write one row."""
        line = json.dumps(row)
        print(line, flush=True)
        with self._path.open("a") as file:
            print(line, file=file)


def run(options: argparse.Namespace) -> None:
    """Train until the budget or this run's share of it is spent."""
    torch.set_num_threads(options.threads)
    torch.set_float32_matmul_precision("high")
    options.out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(options)
    if load_checkpoint(options.out, trainer) and options.rewind is not None:
        trainer.trained_s = options.rewind * trainer.budget_s
    held = load_clips(options.data, "held")
    sampler = Sampler(load_clips(options.data, "train"), seed=options.seed)
    log = Log(options.out / "log.jsonl")
    end = time.monotonic() + (options.stop_after * 60 if options.stop_after else float("inf"))
    evaluated = time.monotonic()
    while trainer.progress < 1 and time.monotonic() < end:
        for _ in train_stage(trainer, sampler, log, options, end):
            if time.monotonic() - evaluated > options.evaluate_minutes * 60:
                log.write(step=trainer.step, held=trainer.evaluate(held))
                evaluated = time.monotonic()
    log.write(step=trainer.step, held=trainer.evaluate(held))
    save_checkpoint(options.out, trainer)


def train_stage(
    trainer: Trainer, sampler: Sampler, log: Log, options: argparse.Namespace, end: float
) -> Iterator[None]:
    """Train until the stage of now is over; yields after each checkpoint."""
    stage = stage_at(trainer.progress)
    size = max(1, round(options.batch * stage.batch))

    def draw(number: int) -> Batch:
        return sampler.batch(number, size=size, frames=stage.frames, crop=stage.crop)

    saved = time.monotonic()
    for batch in prefetch(draw, trainer.step, options.workers):
        start = trainer.clock()
        rng = np.random.default_rng((options.seed, trainer.step))
        log.add(trainer.train_clip(batch, stage, rng))
        trainer.trained_s += trainer.clock() - start
        now = time.monotonic()
        over = trainer.progress >= stage.until or now > end
        if over or now - saved > options.save_minutes * 60:
            log.write_reports(trainer, stage)
            save_checkpoint(options.out, trainer)
            saved = time.monotonic()
            yield
        if over:
            return


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of shards")
    parser.add_argument("--out", type=Path, required=True, help="checkpoints and log; resumed")
    parser.add_argument("--size", choices=("nano", "small"), default="nano")
    parser.add_argument("--minutes", type=float, required=True, help="whole budget, all runs")
    parser.add_argument("--stop-after", type=float, help="minutes of this run")
    parser.add_argument("--rewind", type=float, help="set the progress of a resumed run, 0..1")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=8e-4)
    parser.add_argument("--device", help="cuda or cpu; the best there is by default")
    parser.add_argument("--eager", action="store_true", help="do not compile on a GPU")
    parser.add_argument("--threads", type=int, default=1, help="of torch on a CPU")
    parser.add_argument("--workers", type=int, default=0, help="threads that draw batches ahead")
    parser.add_argument("--save-minutes", type=float, default=4)
    parser.add_argument("--evaluate-minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    run(parser.parse_args())


if __name__ == "__main__":
    main()
