"""Train the `rt` codec from packed shards, on a CPU thread or on one GPU; offline.

    python -m engines.codec.train --data SHARDS --out RUN --minutes 60

Needs torch, numpy and cv2 alone. How runs are resumed is said in training.py; a run that restore.py
began goes on from an exported model. Motion is found between source pictures and moves the decoded
ones, by the code that a recording runs; no gradient goes through it. The loss of a frame
is bits a pixel + lambda(quality) * (6 mse_y + mse_u + mse_v) / 8, with a quality drawn for each
clip and moved for each frame by schedule.quality_offset; in half of the steps a rectangle of each
picture has another quality, as an encoder may ask. The rate sees uniform noise where the picture
sees straight-through rounding.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engines.codec.base import Picture
from engines.codec.motion import BLOCK, find_motion, move
from engines.codec.recipe import (
    EMPHASIS_PROBABILITY,
    STAGES,
    Stage,
    distortion,
    draw_emphasis,
)
from engines.codec.rt import (
    CONFIGS,
    QUALITIES,
    RtCodec,
    blocks_to_planes,
    lagrangian,
    magnitudes_of,
    planes_to_blocks,
)
from engines.codec.schedule import quality_offset
from engines.codec.shards import Batch, Clip
from engines.codec.training import (
    StepReport,
    Trainer,
    compile_if,
    half_precision,
    make_parser,
    planes_on,
    psnr_yuv_db,
    run,
    whole_clip,
)

REFRESH_PROBABILITY = 0.1
MEMORY_NOISE = 0.01
"""Relative size of the noise that stands for the rounding errors of another machine."""
HELD_QUALITIES = (4, 20, 36, 52)


@dataclass(frozen=True, slots=True)
class CodedFrame:
    """What became of one picture of a batch of clips."""

    picture: Tensor
    """(B, 96, H/8, W/8) decoded."""
    quality: Tensor
    """(B, H/16, W/16)."""
    q: Tensor
    z: Tensor
    magnitudes: Tensor | None
    """Of the symbols before; None in an intra frame."""
    bits: Tensor
    """(B,), without those of vectors."""


class Coder:
    """Runs frames of a codec, in bfloat16 where that is fast; compiled where asked."""

    def __init__(self, codec: RtCodec, device: torch.device, *, compiled: bool) -> None:
        self.codec, self.device = codec, device
        self._intra = compile_if(compiled, codec.intra_tensors)
        self._inter = compile_if(compiled, codec.inter_tensors)

    def intra(self, blocks: Tensor, quality: Tensor) -> tuple[Tensor, ...]:
        """See RtCodec.intra_tensors."""
        with half_precision(self.device):
            return self._intra(blocks, quality)

    def inter(self, blocks: Tensor, memory: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        """See RtCodec.inter_tensors."""
        with half_precision(self.device):
            return self._inter(blocks, memory, *rest)

    def refresh(self, memory: Tensor) -> Tensor:
        """See RtCodec.refresh."""
        with half_precision(self.device):
            return self.codec.refresh(memory)

    def blocks(self, planes: Sequence[np.ndarray]) -> Tensor:
        """Blocks of planes (B, 1, h, w)."""
        blocks = planes_to_blocks(*planes_on(self.device, planes))
        return blocks.contiguous(memory_format=torch.channels_last)

    def change(self, picture: Tensor, vectors: np.ndarray) -> Tensor:
        """What vectors (B, h/16, w/16, 2) do to decoded pictures, in blocks; has no gradient."""
        before = tuple(
            p.detach().round().clamp(0, 255).byte().cpu().numpy() for p in blocks_to_planes(picture)
        )
        moved = [move(Picture(*(p[i, 0] for p in before)), of) for i, of in enumerate(vectors)]
        after = tuple(np.stack([getattr(m, name) for m in moved])[:, None] for name in "yuv")
        return self.blocks(after) - self.blocks(before)

    def frames(self, batch: Batch, base: Tensor) -> Iterator[CodedFrame]:
        """Code a batch with its vectors as an encoder does, at qualities (B, h/16, w/16)."""
        *planes, vectors = batch
        picture = memory = magnitudes = None
        for t in range(len(vectors)):
            blocks = self.blocks([p[t] for p in planes])
            quality = (base + quality_offset(t)).clamp(0, QUALITIES - 1)
            seen: Tensor | None = magnitudes
            if picture is None or memory is None:
                picture, memory, q, z, _, bits = self.intra(blocks, quality)
                magnitudes = torch.zeros_like(q)
            else:
                change = self.change(picture, vectors[t])
                picture, memory, q, z, _, bits = self.inter(
                    blocks, memory, change, magnitudes, quality
                )
                magnitudes = magnitudes_of(q)
            yield CodedFrame(picture, quality, q, z, seen, bits)


def with_vectors(batch: Batch) -> Batch:
    """Add vectors (T, B, h/16, w/16, 2) since the frame before; zero in the first frame."""
    luma = batch[0][:, :, 0]
    frames, count, height, width = luma.shape
    vectors = np.zeros((frames, count, height // BLOCK, width // BLOCK, 2), np.int32)
    for t, i in np.ndindex(frames - 1, count):
        vectors[t + 1, i] = find_motion(luma[t + 1, i], luma[t, i])
    return (*batch, vectors)


class RtTrainer(Trainer):
    """Trains one size of rt."""

    codec: RtCodec

    def __init__(self, options: argparse.Namespace) -> None:
        torch.manual_seed(options.seed)
        super().__init__(RtCodec(CONFIGS[f"rt-{options.size}"]), STAGES, options)
        self.coder = Coder(self.codec, self.device, compiled=self.compiled)

    def prepare(self, batch: Batch) -> Batch:
        """See with_vectors."""
        return with_vectors(batch)

    def train_clip(self, batch: Batch, stage: Stage, rng: np.random.Generator) -> StepReport:
        """Train on one batch of clips, with one step of the optimiser for each window."""
        self.codec.train()
        base = self._draw_quality(rng, batch[0].shape[1], stage.crop)
        *planes, vectors = batch
        picture = memory = magnitudes = None
        window_loss = torch.zeros((), device=self.device)
        losses, rates, errors = [], [], []
        for t in range(stage.frames):
            blocks = self.coder.blocks([p[t] for p in planes])
            quality = (base + quality_offset(t)).clamp(0, QUALITIES - 1)
            if picture is None or memory is None or magnitudes is None:
                picture, memory, q, _, _, bits = self.coder.intra(blocks, quality)
                magnitudes = torch.zeros_like(q).detach()
            else:
                magnitudes = magnitudes.contiguous(memory_format=torch.channels_last)
                memory = self._disturb(memory, rng)
                picture, memory, q, _, _, bits = self.coder.inter(
                    blocks, memory, self.coder.change(picture, vectors[t]), magnitudes, quality
                )
                magnitudes = magnitudes_of(q)
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
                self.update(window_loss / stage.window)
                window_loss = torch.zeros((), device=self.device)
                memory = memory.detach().requires_grad_()  # as within a window: compiled once
        mse = float(torch.stack(errors).mean())
        return StepReport(
            float(torch.stack(losses).mean()),
            float(torch.stack(rates).mean()),
            10 * float(np.log10(255**2 / mse)),
        )

    def _draw_quality(self, rng: np.random.Generator, count: int, crop: int) -> Tensor:
        """(count, crop/16, crop/16) int64, always dense: a layout more is a compilation more."""
        base = torch.from_numpy(rng.integers(0, QUALITIES, count))[:, None, None]
        base = base.expand(-1, crop // 16, crop // 16)
        if rng.random() < EMPHASIS_PROBABILITY:
            base = base + draw_emphasis(rng, count, crop)
        return base.contiguous().to(self.device)

    def _disturb(self, memory: Tensor, rng: np.random.Generator) -> Tensor:
        if rng.random() < REFRESH_PROBABILITY:
            memory = self.coder.refresh(memory)
        noise = torch.randn_like(memory) * memory.detach().float().std() * MEMORY_NOISE
        return (memory + noise.to(memory.dtype)).contiguous(memory_format=torch.channels_last)

    def evaluate(self, clips: list[Clip]) -> list[dict[str, float]]:
        """One row for each of HELD_QUALITIES."""
        self.codec.eval()
        points = []
        batches = [self.prepare(whole_clip(clip)) for clip in clips]
        with self.ema.applied_to(self.codec), torch.no_grad():
            for quality in HELD_QUALITIES:
                results = np.array(
                    [self._measure(*pair, quality) for pair in zip(clips, batches, strict=True)]
                )
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

    def _measure(self, clip: Clip, batch: Batch, base: int) -> tuple[float, float, float, float]:
        """Bits without those of vectors, and PSNR, of a whole clip, and of its first frame."""
        coder = Coder(self.codec, self.device, compiled=False)  # each clip has a size of its own
        rows, columns = batch[-1].shape[2:4]
        quality = torch.full((1, rows, columns), base, device=self.device)
        bpps, psnrs = [], []
        for t, coded in enumerate(coder.frames(batch, quality)):
            psnrs.append(psnr_yuv_db(blocks_to_planes(coded.picture), clip, t))
            bpps.append(float(coded.bits) / clip.y[0].size)
        return float(np.mean(bpps)), float(np.mean(psnrs)), bpps[0], psnrs[0]


def main() -> None:
    """Parse the command line and train."""
    parser = make_parser(__doc__, learning_rate=8e-4)
    parser.add_argument("--size", choices=("nano", "small"), default="nano")
    options = parser.parse_args()
    run(RtTrainer(options), options)


if __name__ == "__main__":
    main()
