"""Teach a small backbone to see what a large one saw, also how that changes in time; offline.

The first of three steps (pretrain, train rgb, train off), for want of large labelled sets. Needs
torch, numpy and what engines.off.teacher wrote; no labels. Resumable; on a GPU or a processor.

    python -m engines.off.pretrain TAUGHT RUN --minutes 40 --start DETECTOR_RUN --bf16
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from engines.off.backbones import Backbone, make_backbone
from engines.off.colour import Rgb
from engines.off.config import BackboneName
from engines.off.weights import detector_backbone
from engines.training import Run, set_lr

STRIDES = (8, 16, 32)

_CHECKPOINT_S = 120.0
_LOG_S = 30.0
_WARM_UP_STEPS = 40
_MOTION = 1.0
"""Weight of the changes in time beside the maps themselves."""


@dataclass(frozen=True, slots=True)
class Options:
    """What to teach, and for how long."""

    minutes: float
    backbone: BackboneName = "mobilenet_v3_large"
    width: float = 0.5
    start: Path | None = None
    """Run of engines.detectors.train whose trunk is taught on, instead of a backbone by name."""
    batch: int = 8
    """Pairs of pictures in a step."""
    lr: float = 3e-3
    bf16: bool = False
    device: str = "cpu"
    seed: int = 0


class Taught:
    """Pictures, and what the teacher saw in them."""

    def __init__(self, folder: Path) -> None:
        try:
            self.pictures = np.load(folder / "pictures.npy", mmap_mode="r")
            self.pairs: NDArray[np.int64] = np.load(folder / "pairs.npy")
            self.maps = [np.load(folder / f"maps{s}.npy", mmap_mode="r") for s in STRIDES]
        except OSError as error:
            raise SystemExit(
                f"{folder}: must hold pictures.npy, pairs.npy and maps8.npy to maps32.npy, got "
                f"{error}; make them with engines.off.teacher"
            ) from None
        self.channels = [of_stride.shape[2] for of_stride in self.maps]
        some = np.random.default_rng(0).choice(self.pairs.shape[0], 64)
        self.scale = [self._scales(of_stride, self.pairs[some]) for of_stride in self.maps]

    def batch(self, rng: np.random.Generator, size: int) -> tuple[Tensor, list[Tensor]]:
        """Draw pairs: pictures (2 size, 3, h, w) uint8 and the teacher's maps, standardised."""
        pairs = self.pairs[rng.choice(len(self.pairs), size)]
        mirrored = np.repeat(rng.random(size) < 0.5, 2).astype(np.int64)
        index = pairs.reshape(-1)
        pictures = np.stack(
            [
                self.pictures[i][:, :, :: -1 if m else 1]
                for i, m in zip(index, mirrored, strict=True)
            ]
        )
        gain = rng.uniform(0.75, 1.25, (size, 1, 1, 1, 1)).repeat(2, 1)
        shift = rng.uniform(-15, 15, (size, 1, 1, 1, 1)).repeat(2, 1)
        luma = pictures.reshape(size, 2, *pictures.shape[1:])[:, :, :1].astype(np.float32)
        pictures = pictures.copy()
        pictures[:, 0] = np.clip((luma - 126) * gain + 126 + shift, 16, 235).reshape(
            pictures[:, 0].shape
        )
        maps = [
            torch.from_numpy(np.stack([m[i, k] for i, k in zip(index, mirrored, strict=True)]))
            for m in self.maps
        ]
        standard = [
            (m.float() - mean) / deviation
            for m, (mean, deviation, _) in zip(maps, self.scale, strict=True)
        ]
        return torch.from_numpy(pictures), standard

    @staticmethod
    def _scales(maps: NDArray[np.float16], pairs: NDArray[np.int64]) -> tuple[Tensor, ...]:
        """Mean and deviation of each channel, and the deviation of its changes after scaling."""
        x = torch.from_numpy(maps[pairs.reshape(-1), 0].astype(np.float32))
        deviation, mean = torch.std_mean(x, dim=(0, 2, 3), keepdim=True)
        deviation = deviation + 1e-3
        change = (x[1::2] - x[::2]) / deviation
        spread = change.square().mean((0, 2, 3), keepdim=True).sqrt() + 0.05
        return mean, deviation, spread


class Student(nn.Module):  # type: ignore[misc]
    """A backbone with a linear reading of each of its maps."""

    def __init__(self, options: Options, channels: Sequence[int]) -> None:
        super().__init__()
        self.colour = Rgb()
        self.backbone: Backbone
        if options.start:
            self.backbone = detector_backbone(options.start)
        else:
            self.backbone = make_backbone(options.backbone, width=options.width)
        self.readings = nn.ModuleList(
            nn.Conv2d(tap.channels, wanted, 1)
            for tap, wanted in zip(self.backbone.taps, channels, strict=True)
        )

    def forward(self, planes: Tensor) -> list[Tensor]:
        # channels last: half the time of a step on a processor
        rgb = self.colour(planes).contiguous(memory_format=torch.channels_last)
        maps = self.backbone(rgb)
        return [reading(x) for reading, x in zip(self.readings, maps, strict=True)]


def losses(
    seen: list[Tensor], taught: list[Tensor], spreads: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """Mean squared errors of the maps, and of their changes from first picture to second."""
    still, motion = torch.zeros(()), torch.zeros(())
    for mine, theirs, spread in zip(seen, taught, spreads, strict=True):
        still = still + F.mse_loss(mine, theirs)
        change, wanted = mine[1::2] - mine[::2], theirs[1::2] - theirs[::2]
        motion = motion + ((change - wanted) / spread).square().mean()
    return still / len(seen), motion / len(seen)


def pretrain(taught: Taught, folder: Path, options: Options) -> None:
    """Train until the minutes are over, from the last checkpoint in `folder` where there is one."""
    torch.manual_seed(options.seed)
    student = Student(options, taught.channels).to(options.device).train()
    student.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(student.parameters(), lr=options.lr, weight_decay=0.02)
    run = Run(
        folder,
        {"student": student, "optimizer": optimizer},
        backbone=student.backbone.name,
        width=student.backbone.width,
    )
    saved = logged = time.monotonic()
    begin = saved - run.spent_s
    spreads = [scale[2] for scale in taught.scale]
    while run.spent_s < options.minutes * 60:
        part = run.spent_s / (options.minutes * 60)
        set_lr(optimizer, options.lr, part=part, warm=(run.step + 1) / _WARM_UP_STEPS)
        rng = np.random.default_rng((options.seed, run.step))
        pictures, maps = taught.batch(rng, options.batch)
        with torch.autocast(options.device, torch.bfloat16, enabled=options.bf16):
            seen = student(pictures.to(options.device))
        still, motion = losses(
            [x.float() for x in seen], [m.to(options.device) for m in maps], spreads
        )
        optimizer.zero_grad(set_to_none=True)
        (still + _MOTION * motion).backward()
        nn.utils.clip_grad_norm_(student.parameters(), 5.0)
        optimizer.step()
        run.step += 1
        now = time.monotonic()
        run.spent_s = now - begin
        if now - logged > _LOG_S:
            spent_min = run.spent_s / 60
            run.log(f"step {run.step} min {spent_min:.1f} still {still:.3f} motion {motion:.3f}")
            logged = now
        if now - saved > _CHECKPOINT_S:
            run.save()
            saved = now
    run.save()


def main(argv: Sequence[str] | None = None) -> None:
    """Pretrain from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("taught", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--backbone", default="mobilenet_v3_large")
    parser.add_argument("--width", type=float, default=0.5)
    parser.add_argument("--start", type=Path, help="run of engines.detectors.train")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    pretrain(
        Taught(options.taught),
        options.run,
        Options(
            options.minutes,
            backbone=options.backbone,
            width=options.width,
            start=options.start,
            lr=options.lr,
            bf16=options.bf16,
            device=options.device,
        ),
    )


if __name__ == "__main__":
    main()
