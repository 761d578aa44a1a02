"""Run any training of this folder: by the minute, resumed where it stopped, logged, saved; offline.

Progress is counted in minutes of training (on a CPU: of the main thread's processor time) over all
runs with one --out folder, so that the same command goes on where the last one was stopped. Knows
no network: train.py and train_dvc.py say what a clip is trained on.
"""

from __future__ import annotations

import argparse
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from engines.codec.checkpoint import Ema, load_checkpoint, save_checkpoint
from engines.codec.recipe import Stage, learning_rate_at, stage_at
from engines.codec.shards import Batch, Clip, Sampler, load_clips

GRADIENT_NORM = 1.0
VARIANTS = 32
"""Of one network that may be compiled: shapes of all stages, with and without a gradient."""


@dataclass(frozen=True, slots=True)
class StepReport:
    """Means over one clip."""

    loss: float
    bpp: float
    psnr_db: float


class Trainer(ABC):
    """Codec, optimiser, moving average and progress: all that a checkpoint holds."""

    def __init__(
        self, codec: nn.Module, stages: Sequence[Stage], options: argparse.Namespace
    ) -> None:
        self.device = choose_device(options.device)
        on_gpu = self.device.type == "cuda"
        self.compiled = on_gpu and not options.eager
        self.codec = codec.to(self.device, memory_format=torch.channels_last)
        self.optimiser = torch.optim.AdamW(
            self.codec.parameters(), lr=0.0, betas=(0.9, 0.99), weight_decay=0.0, fused=on_gpu
        )
        self.ema = Ema(self.codec)
        self.stages = stages
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

    @property
    def stage(self) -> Stage:
        """What is trained now."""
        return stage_at(self.progress, self.stages)

    def prepare(self, batch: Batch) -> Batch:
        """What can be computed of a batch ahead of its training, in another thread."""
        return batch

    @abstractmethod
    def train_clip(self, batch: Batch, stage: Stage, rng: np.random.Generator) -> StepReport:
        """Train on one batch of clips."""

    @abstractmethod
    def evaluate(self, clips: list[Clip]) -> list[dict[str, float]]:
        """Estimated bits and PSNR of the averaged weights on held-back clips."""

    def update(self, loss: Tensor) -> None:
        """One step of the optimiser; one whose gradients are not finite is left out."""
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate_at(self.progress, self.step, self.peak)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.codec.parameters(), GRADIENT_NORM)
        if bool(torch.isfinite(norm)):
            self.optimiser.step()
            self.ema.update(self.codec, self.step)
        self.step += 1


def choose_device(name: str | None) -> torch.device:
    """The device of this name; without one a GPU where there is one."""
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def planes_on(device: torch.device, planes: Sequence[np.ndarray]) -> tuple[Tensor, ...]:
    """Planes as float32 on a device."""
    return tuple(torch.from_numpy(p).to(device, non_blocking=True).float() for p in planes)


def half_precision(device: torch.device) -> torch.autocast:
    """bfloat16 where the device computes with it; on other processors it is only slower."""
    able = device.type == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=able)


Networks = Callable[..., tuple[Tensor, ...]]


def compile_if(wanted: bool, function: Networks) -> Networks:
    """Compile a function for each shape that it is called with, or leave it as it is."""
    if not wanted:
        return function
    settings = torch._dynamo.config
    renamed = hasattr(settings, "recompile_limit")
    setattr(settings, "recompile_limit" if renamed else "cache_size_limit", VARIANTS)
    compiled: Networks = torch.compile(function, dynamic=False)
    return compiled


def pad_planes(clip: Clip, t: int) -> tuple[np.ndarray, ...]:
    """Planes (1, 1, h, w) of one frame, grown to multiples of 64 by repeating the edge."""
    height, width = clip.y.shape[1:]
    down, right = -height % 64, -width % 64
    grow = [(p, d) for p, d in ((clip.y, 1), (clip.u, 2), (clip.v, 2))]
    return tuple(
        np.pad(p[t], ((0, down // d), (0, right // d)), mode="edge")[None, None] for p, d in grow
    )


def whole_clip(clip: Clip) -> Batch:
    """All frames of a clip as a batch of one, grown to multiples of 64."""
    frames = [pad_planes(clip, t) for t in range(len(clip.y))]
    return tuple(np.stack(planes) for planes in zip(*frames, strict=True))


def psnr_yuv_db(planes: tuple[Tensor, ...], clip: Clip, t: int) -> float:
    """PSNR (6 Y + U + V) / 8 of decoded planes (1, 1, h, w) of 0..255, without their padding."""
    values = []
    for plane, truth in zip(planes, (clip.y, clip.u, clip.v), strict=True):
        rows, columns = truth.shape[1:]
        seen = plane[0, 0, :rows, :columns].float().round().clamp(0, 255).cpu().numpy()
        values.append(10 * np.log10(255**2 / max(np.mean((seen - truth[t]) ** 2), 1e-3)))
    return float((6 * values[0] + values[1] + values[2]) / 8)


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


class Limits:
    """When one run ends early: after minutes, after steps, or never."""

    def __init__(self, options: argparse.Namespace, first_step: int) -> None:
        minutes, steps = options.stop_after, options.steps
        self._end_s = time.monotonic() + minutes * 60 if minutes else float("inf")
        self._last_step = first_step + steps if steps else float("inf")

    def reached(self, step: int) -> bool:
        """True if this run must end now."""
        return time.monotonic() > self._end_s or step >= self._last_step


def run(trainer: Trainer, options: argparse.Namespace) -> None:
    """Train until the budget or this run's share of it is spent."""
    torch.set_num_threads(options.threads)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    cv2.setNumThreads(1)  # --workers says how many draw
    options.out.mkdir(parents=True, exist_ok=True)
    load_checkpoint(options.out, trainer)
    if options.rewind is not None:
        trainer.trained_s = options.rewind * trainer.budget_s
    held = load_clips(options.data, "held")
    sampler = Sampler(load_clips(options.data, "train"), seed=options.seed)
    log = Log(options.out / "log.jsonl")
    limits = Limits(options, trainer.step)
    evaluated = time.monotonic()
    while trainer.progress < 1 and not limits.reached(trainer.step):
        for _ in train_stage(trainer, sampler, log, options, limits):
            if time.monotonic() - evaluated > options.evaluate_minutes * 60:
                log.write(step=trainer.step, held=trainer.evaluate(held))
                evaluated = time.monotonic()
    log.write(step=trainer.step, held=trainer.evaluate(held))
    save_checkpoint(options.out, trainer)


def train_stage(
    trainer: Trainer, sampler: Sampler, log: Log, options: argparse.Namespace, limits: Limits
) -> Iterator[None]:
    """Train until the stage of now is over; yields after each checkpoint."""
    stage = trainer.stage
    size = max(1, round(options.batch * stage.batch))

    def draw(number: int) -> Batch:
        batch = sampler.batch(number, size=size, frames=stage.frames, crop=stage.crop)
        return trainer.prepare(batch)

    saved = time.monotonic()
    for batch in prefetch(draw, trainer.step, options.workers):
        start = trainer.clock()
        rng = np.random.default_rng((options.seed, trainer.step))
        log.add(trainer.train_clip(batch, stage, rng))
        trainer.trained_s += trainer.clock() - start
        now = time.monotonic()
        over = trainer.progress >= stage.until or limits.reached(trainer.step)
        if over or now - saved > options.save_minutes * 60:
            log.write_reports(trainer, stage)
            save_checkpoint(options.out, trainer)
            saved = time.monotonic()
            yield
        if over:
            return


def make_parser(doc: str, *, learning_rate: float) -> argparse.ArgumentParser:
    """The options that every training has."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of shards")
    parser.add_argument("--out", type=Path, required=True, help="checkpoints and log; resumed")
    parser.add_argument("--minutes", type=float, required=True, help="whole budget, all runs")
    parser.add_argument("--stop-after", type=float, help="minutes of this run")
    parser.add_argument("--steps", type=int, help="of the optimiser in this run, for a trial")
    parser.add_argument("--rewind", type=float, help="set the progress of this run, 0..1")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=learning_rate)
    parser.add_argument("--device", help="cuda or cpu; the best there is by default")
    parser.add_argument("--eager", action="store_true", help="do not compile on a GPU")
    parser.add_argument("--threads", type=int, default=1, help="of torch on a CPU")
    parser.add_argument("--workers", type=int, default=0, help="threads that draw batches ahead")
    parser.add_argument("--save-minutes", type=float, default=4)
    parser.add_argument("--evaluate-minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    return parser
