"""Train the "street-check" verifier on packs of crops; offline, on one processor core.

Needs torch and numpy alone. The learning rate follows the processor time that was used, so that a
run ends when its minutes are over, however busy the machine is.

    python -m engines.classifiers.train RUN.pt --minutes 10 --mix fight.npz=8,crowd.npz=2
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from engines.classifiers.model import CheckNet, Config
from engines.training import Average, set_lr

EMA_DECAY = 0.998
_WARM_UP = 0.03  # part of the time
_LOG_STEPS = 200


@dataclass(frozen=True, slots=True)
class Options:
    """How to train."""

    minutes: float
    batch: int = 64
    lr: float = 2e-3
    weight_decay: float = 0.05
    seed: int = 0


class Crops:
    """Crops of several packs, drawn with given shares."""

    def __init__(self, packs: Mapping[Path, float], config: Config) -> None:
        loaded = [np.load(path) for path in packs]
        self._config = config
        self._crops = [pack["crops"] for pack in loaded]
        self._groups = [pack["groups"] for pack in loaded]
        self._truths = [pack["truths"] for pack in loaded]
        shares = np.array(list(packs.values()))
        self._shares = shares / shares.sum()

    def draw(self, count: int, random: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Augmented crops (n, 3, h, w) uint8, their groups (n,) and how right they are (n,)."""
        crops, groups, truths = [], [], []
        for origin in random.choice(len(self._shares), count, p=self._shares):
            row = random.integers(len(self._crops[origin]))
            crops.append(
                augmented(self._crops[origin][row], self._config.width, self._config.height, random)
            )
            groups.append(self._groups[origin][row])
            truths.append(self._truths[origin][row])
        return (
            torch.from_numpy(np.stack(crops)),
            torch.tensor(np.array(groups)),
            torch.tensor(np.array(truths)),
        )


def augmented(
    crop: NDArray[np.uint8], width: int, height: int, random: np.random.Generator
) -> NDArray[np.uint8]:
    """Move, mirror and relight one stored crop (3, H, W)."""
    _, stored_height, stored_width = crop.shape
    top = int(random.integers(stored_height - height + 1))
    left = int(random.integers(stored_width - width + 1))
    moved = crop[:, top : top + height, left : left + width].astype(np.float32)
    if random.random() < 0.5:
        moved = moved[:, :, ::-1]
    luma = (moved[:1] - 128) * random.uniform(0.7, 1.3) + 128 + random.uniform(-25, 25)
    chroma = (moved[1:] - 128) * random.uniform(0.5, 1.3) + 128 + random.normal(0, 4, (2, 1, 1))
    if random.random() < 0.1:
        chroma[:] = 128  # infrared cameras at night
    return np.asarray(np.clip(np.concatenate([luma, chroma]), 0, 255), np.uint8)


def check_loss(logits: Tensor, groups: Tensor, truths: Tensor) -> Tensor:
    """Cross-entropy; a box is one example for the group it is taken for.

    A right one is also an example of what the other groups are not; a wrong one says nothing of
    them, since it may be one of those.
    """
    own = F.one_hot(groups, logits.shape[1]).float()
    weight = own + 0.3 * (1 - own) * (truths >= 0.5).float()[:, None]
    losses = F.binary_cross_entropy_with_logits(logits, own * truths[:, None], reduction="none")
    return (losses * weight).sum() / weight.sum()


def train(crops: Crops, config: Config, options: Options) -> CheckNet:
    """Train one network for so many minutes of processor time; returns the average of its steps."""
    torch.manual_seed(options.seed)
    random = np.random.default_rng(options.seed)
    net = CheckNet(config)
    net.to(memory_format=torch.channels_last).train()
    average = Average(net, EMA_DECAY)
    optimiser = torch.optim.AdamW(net.parameters(), options.lr, weight_decay=options.weight_decay)
    start_s, step, recent = time.process_time(), 0, 0.0
    while (spent_s := time.process_time() - start_s) < 60 * options.minutes:
        done = spent_s / (60 * options.minutes)
        set_lr(optimiser, options.lr, part=done, warm=done / _WARM_UP)
        planes, groups, truths = crops.draw(options.batch, random)
        loss = check_loss(net(planes), groups, truths)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        step += 1
        average.update(net, step)
        recent = recent + (loss.item() - recent) / min(step, _LOG_STEPS)
        if step % _LOG_STEPS == 0:
            sys.stdout.write(f"{done:.0%} step {step} loss {recent:.4f}\n")
            sys.stdout.flush()
    return average.net


def load_net(path: Path) -> CheckNet:
    """Read a trained network."""
    saved = torch.load(path, weights_only=True)
    net = CheckNet(Config(**saved["config"]))
    net.load_state_dict(saved["net"])
    net.eval()
    return net


def main(argv: Sequence[str] | None = None) -> None:
    """Train from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--mix", required=True, help="PACK.npz=SHARE,...")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    mix = {Path(p): float(s) for p, s in (entry.split("=") for entry in options.mix.split(","))}
    config = Config()
    net = train(Crops(mix, config), config, Options(options.minutes, seed=options.seed))
    torch.save({"config": asdict(config), "net": net.state_dict()}, options.out)
    sys.stdout.write(f"{options.out}: {net.params()} parameters\n")


if __name__ == "__main__":
    main()
