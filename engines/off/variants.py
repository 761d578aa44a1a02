"""Read the maps of a frozen backbone that features.py has written; offline, with torch alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Variant:
    """Maps of all clips, seen one way."""

    maps: list[NDArray[np.float16]]
    """(F, C, h, w) of each tap, mapped from disk."""
    start: NDArray[np.int64]
    label: NDArray[np.int16]

    def gathered(self, index: NDArray[np.int64]) -> list[Tensor]:
        """Maps (n..., C, h, w) of some frames, float32."""
        flat = index.reshape(-1)
        return [
            torch.from_numpy(m[flat].astype(np.float32)).unflatten(0, index.shape)
            for m in self.maps
        ]

    def last_tap(self) -> Variant:
        """The same clips with the deepest map alone: all that the backbone's own head reads."""
        return Variant(self.maps[-1:], self.start, self.label)

    @classmethod
    def load(cls, folder: Path) -> Variant:
        """Map one variant."""
        taps = sorted(folder.glob("maps*.npy"))
        if not taps:
            raise SystemExit(f"{folder}: must hold maps*.npy; make them with engines.off.features")
        with np.load(folder / "clips.npz", allow_pickle=False) as clips:
            start, label = clips["start"], clips["label"]
        return cls([np.load(tap, mmap_mode="r") for tap in taps], start, label)


def load_variants(folder: Path) -> list[Variant]:
    """Map all variants of a folder, the plain one first."""
    folders = sorted(folder.glob("variant*"))
    if not folders:
        raise SystemExit(f"{folder}: must hold variant00; make it with engines.off.features")
    return [Variant.load(each) for each in folders]
