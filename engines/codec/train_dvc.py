"""Train the `dvc` codec from packed shards for one lambda, on a CPU thread or on one GPU; offline.

    python -m engines.codec.train_dvc --data SHARDS --out RUN --minutes 60 --lagrangian 1024

Needs torch, numpy and cv2 alone. How runs are resumed is said in training.py. The parts are trained
in the order of the paper: motion alone (the warped picture, the bits of the motion, and how far the
flow is from that of DIS, a classical method, which shows a small network the way), then the
whole inter codec on true references, with a tenth of the errors of warped and predicted picture in
the loss, then on its own decoded pictures, whose errors it must live with. The intra codec learns
beside it all the time. A second lambda is learned faster from the first: --start-from RUN.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engines.codec.checkpoint import Ema, load_average
from engines.codec.dvc import CONFIGS, DvcCodec, DvcResult, loss
from engines.codec.motion import dense_flow
from engines.codec.recipe import Stage
from engines.codec.shards import Batch, Clip
from engines.codec.training import (
    Networks,
    StepReport,
    Trainer,
    compile_if,
    half_precision,
    make_parser,
    pad_planes,
    planes_on,
    psnr_yuv_db,
    run,
)

JOINT_FROM = 0.40
TAUGHT = 0.2
"""Loss of a pixel's distance from the flow of the teacher."""
LAMBDAS = (256, 512, 1024, 2048)


@dataclass(frozen=True, slots=True)
class DvcStage(Stage):
    """Clips of one part of the training, and what is learned of them."""

    task: Literal["motion", "reconstruction", "joint"]


STAGES = (
    DvcStage(0.15, 128, 2, 1, 2.0, "motion"),
    DvcStage(JOINT_FROM, 128, 2, 1, 2.0, "reconstruction"),
    DvcStage(0.75, 192, 3, 1, 0.5, "joint"),
    DvcStage(1.00, 192, 6, 1, 0.5, "joint"),
)


@dataclass(frozen=True, slots=True)
class Coder:
    """The three ways through the networks, in bfloat16; compiled where asked."""

    intra: Networks
    """r to r_hat, y, z, index and bits."""
    move: Networks
    """now and reference to warped, m, bits, flow and coded flow."""
    inter: Networks
    """now and reference to the fields of DvcResult."""

    @classmethod
    def of(cls, codec: DvcCodec, device: torch.device, *, compiled: bool) -> Coder:
        """Wrap the networks of a codec."""

        def short(function: Networks) -> Networks:
            made = compile_if(compiled, function)

            def call(*tensors: Tensor) -> tuple[Tensor, ...]:
                with half_precision(device):
                    return made(*tensors)

            return call

        return cls(short(codec.intra.forward), short(codec.inter.move), short(codec.inter.tensors))


class DvcTrainer(Trainer):
    """Trains one lambda of dvc."""

    codec: DvcCodec

    def __init__(self, options: argparse.Namespace) -> None:
        torch.manual_seed(options.seed)
        codec = DvcCodec(CONFIGS[options.width])
        super().__init__(codec, STAGES, options)
        if options.start_from is not None:
            load_average(options.start_from, self.codec)
            self.ema = Ema(self.codec)
            self.trained_s = JOINT_FROM * self.budget_s
        self.lagrangian = float(options.lagrangian)
        self.coder = Coder.of(self.codec, self.device, compiled=self.compiled)

    def prepare(self, batch: Batch) -> Batch:
        """Add the flow (T, B, 2, h, w) of each frame since the one before; zero in the first."""
        luma = batch[0][:, :, 0]
        flows = np.zeros((*luma.shape[:2], 2, *luma.shape[2:]), np.float32)
        for t, i in np.ndindex(len(luma) - 1, luma.shape[1]):
            flows[t + 1, i] = dense_flow(luma[t + 1, i], luma[t, i]).transpose(2, 0, 1)
        return (*batch, flows)

    def picture(self, planes: tuple[np.ndarray, ...]) -> Tensor:
        """Planes (B, 1, h, w) to (B, 3, h, w) of 0..1, with chroma doubled."""
        y, u, v = planes_on(self.device, planes)
        full = (y, *(F.interpolate(plane, scale_factor=2.0) for plane in (u, v)))
        return (torch.cat(full, 1) / 255).contiguous(memory_format=torch.channels_last)

    def train_clip(self, batch: Batch, stage: Stage, rng: np.random.Generator) -> StepReport:
        """Train on one batch of clips, with one step of the optimiser for each inter frame."""
        assert isinstance(stage, DvcStage)
        del rng
        self.codec.train()
        *planes, flows = batch
        frames = [self.picture(tuple(p[t] for p in planes)) for t in range(stage.frames)]
        pixels = frames[0].shape[2] * frames[0].shape[3]
        decoded, intra_bits = self._intra(frames[0])
        error = (decoded - frames[0]).square().mean()
        pending = self.lagrangian * error + intra_bits.mean() / pixels
        losses, rates, errors = [], [], []
        for (before, now), taught in zip(pairwise(frames), flows[1:], strict=True):
            reference = decoded.detach() if stage.task == "joint" else before
            if stage.task == "motion":
                decoded, _, bits, *found = self.coder.move(now, reference)
                cost = self.lagrangian * (decoded - now).square().mean() + bits.mean() / pixels
                teacher = torch.from_numpy(taught).to(self.device)
                cost = cost + TAUGHT * sum((flow - teacher).abs().mean() for flow in found)
            else:
                result = DvcResult(*self.coder.inter(now, reference))
                decoded, bits = result.picture, result.bits
                warm_up = stage.task == "reconstruction"
                cost = loss(result, now, self.lagrangian, warm_up=warm_up)
            losses.append(cost.detach())
            rates.append(bits.detach().mean() / pixels)
            errors.append((decoded.detach() - now).square().mean())
            self.update(cost + pending)
            pending = torch.zeros((), device=self.device)
        return StepReport(
            float(torch.stack(losses).mean()),
            float(torch.stack(rates).mean()),
            -10 * float(torch.stack(errors).mean().log10()),
        )

    def _intra(self, now: Tensor) -> tuple[Tensor, Tensor]:
        r_hat, _, _, _, bits = self.coder.intra(now - 0.5)
        return r_hat + 0.5, bits

    def evaluate(self, clips: list[Clip]) -> list[dict[str, float]]:
        """One row: whole clips, and their first frames."""
        self.codec.eval()
        with self.ema.applied_to(self.codec), torch.no_grad():
            results = np.array([self._measure(clip) for clip in clips])
        names = ("bpp", "psnr_yuv_db", "intra_bpp", "intra_psnr_yuv_db")
        means = (round(float(mean), 4) for mean in results.mean(0))
        return [{"lagrangian": self.lagrangian, **dict(zip(names, means, strict=True))}]

    def _measure(self, clip: Clip) -> tuple[float, float, float, float]:
        height, width = clip.y.shape[1:]
        reference = None
        bpps, psnrs = [], []
        for t in range(len(clip.y)):
            result = self.codec(self.picture(pad_planes(clip, t)), reference)
            reference = result.picture.clamp(0, 1)
            y, colours = reference[:, :1] * 255, F.avg_pool2d(reference[:, 1:] * 255, 2)
            psnrs.append(psnr_yuv_db((y, colours[:, :1], colours[:, 1:]), clip, t))
            bpps.append(float(result.bits) / (height * width))
        return float(np.mean(bpps)), float(np.mean(psnrs)), bpps[0], psnrs[0]


def main() -> None:
    """Parse the command line and train."""
    parser = make_parser(__doc__, learning_rate=5e-4)
    parser.add_argument("--width", choices=tuple(CONFIGS), default="narrow")
    parser.add_argument("--lagrangian", type=int, choices=LAMBDAS, default=1024)
    parser.add_argument("--start-from", type=Path, help="run of another lambda to learn from")
    options = parser.parse_args()
    run(DvcTrainer(options), options)


if __name__ == "__main__":
    main()
