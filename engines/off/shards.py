"""Write and read packs of clips: small pictures at a steady rate, a label for each; offline.

A pack is a folder of two files. frames.npy: (F, 3, h, w) uint8 planes exactly as the runtime
feeds them to a network; it is mapped, not read. clips.npz: `start` (where each clip
begins, and the end), `label` (F; index into `classes`, or UNLABELLED), `source` and `name` of each
clip, `rate`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

U8 = NDArray[np.uint8]

UNLABELLED = -1


@dataclass(frozen=True, slots=True)
class Pack:
    """All clips of one folder."""

    frames: U8
    """(F, 3, h, w) Y, U, V."""
    start: NDArray[np.int64]
    """(N + 1,) first frame of each clip."""
    label: NDArray[np.int16]
    """(F,)."""
    source: NDArray[np.str_]
    """(N,) what must not be parted between training and test."""
    name: NDArray[np.str_]
    classes: tuple[str, ...]
    rate: float
    """Pictures a second of media time."""

    def __len__(self) -> int:
        return len(self.source)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of a picture."""
        return int(self.frames.shape[3]), int(self.frames.shape[2])

    def span(self, clip: int) -> tuple[int, int]:
        """First frame of a clip and the one behind its last."""
        return int(self.start[clip]), int(self.start[clip + 1])

    def clip_labels(self) -> NDArray[np.int16]:
        """Label of each clip's first frame: (N,)."""
        return self.label[self.start[:-1]]

    @classmethod
    def load(cls, folder: Path) -> Pack:
        """Map a pack.

        Raises:
            SystemExit: the folder holds none, or its two files don't fit together.
        """
        try:
            frames = np.load(folder / "frames.npy", mmap_mode="r", allow_pickle=False)
            with np.load(folder / "clips.npz", allow_pickle=False) as clips:
                pack = cls(
                    frames,
                    clips["start"],
                    clips["label"],
                    clips["source"],
                    clips["name"],
                    tuple(str(name) for name in clips["classes"]),
                    float(clips["rate"]),
                )
        except (OSError, KeyError, ValueError) as error:
            raise SystemExit(
                f"{folder}: pack must be a folder with frames.npy and clips.npz, got {error}; "
                "make it with engines.off.pack"
            ) from None
        if len(frames) != pack.start[-1] or len(pack.label) != len(frames):
            raise SystemExit(
                f"{folder}: frames.npy must hold {pack.start[-1]} frames, got {len(frames)}; "
                "pack it again"
            )
        return pack


@dataclass(slots=True)
class Packer:
    """Gathers clips, all of one picture size."""

    classes: tuple[str, ...]
    rate: float
    frames: list[U8] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    start: list[int] = field(default_factory=lambda: [0])
    source: list[str] = field(default_factory=list)
    name: list[str] = field(default_factory=list)

    def add(self, frames: list[U8], labels: list[int], *, source: str, name: str) -> None:
        """Append one clip of pictures (3, h, w) with a label for each."""
        if len(frames) != len(labels):
            raise ValueError(f"{name}: labels must be {len(frames)}, got {len(labels)}")
        self.frames += frames
        self.labels += labels
        self.start.append(len(self.frames))
        self.source.append(source)
        self.name.append(name)

    def save(self, folder: Path) -> None:
        """Write the pack; what was there is replaced."""
        if not self.frames:
            raise SystemExit(f"{folder}: a pack must hold at least one clip, got none")
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "frames.npy", np.stack(self.frames))
        np.savez(
            folder / "clips.npz",
            start=np.array(self.start, np.int64),
            label=np.array(self.labels, np.int16),
            source=np.array(self.source),
            name=np.array(self.name),
            classes=np.array(self.classes),
            rate=self.rate,
        )
