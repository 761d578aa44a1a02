"""Turn samples of many streams into scores of actions: feed an engine, keep each stream's memory.

Runs in the infer process, numpy beside the engine. The engine keeps nothing between two samples;
what one leaves to the next is in the Memory of its stream, which whoever owns the stream keeps.
One thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines.base import Array, Engine
from engines.errors import EngineMismatch, ModelError
from engines.load import load_engine
from engines.off.signature import LOGITS, PLANES, Signature, after, recognise
from engines.zoo import find_model

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]


@dataclass(slots=True)
class Memory:
    """What is kept of one stream: the maps of its last sample, and the logits of its window."""

    window: int
    maps: tuple[Array, ...] | None = None
    """One array for each state of the network; None before the first sample."""
    samples: int = 0
    """Since the begin or the last restart."""
    logits: deque[F32] = field(init=False)
    """(1 + levels, classes) of each sample in the window, the oldest first."""

    def __post_init__(self) -> None:
        self.logits = deque(maxlen=self.window)

    def restart(self) -> None:
        """Forget everything, as after a gap."""
        self.maps, self.samples = None, 0
        self.logits.clear()


class OffModel:
    """One action recogniser on one engine."""

    def __init__(self, engine: Engine, signature: Signature) -> None:
        """Wrap an engine; usually made by `load`."""
        self.engine = engine
        self.signature = signature

    @classmethod
    def load(
        cls,
        name_or_path: str | Path,
        *,
        device: str = "auto",
        streams: int = 1,
        threads: int = 1,
        precision: str | None = None,
        batch: int | None = None,
    ) -> OffModel:
        """Load a recogniser of the zoo by name, or an ONNX file of its kind; see load_engine.

        Raises:
            ModelError: no such model, a damaged file, or no action recogniser.
            EngineUnavailable: nothing here runs on that device.
        """
        path = find_model(name_or_path)
        engine = load_engine(
            path, device=device, streams=streams, threads=threads, precision=precision, batch=batch
        )
        try:
            return cls(engine, recognise(engine, str(path)))
        except ModelError:
            engine.close()
            raise

    def memory(self) -> Memory:
        """Fresh memory for one stream."""
        return Memory(self.signature.window)

    def step(self, planes: U8, memories: Sequence[Memory]) -> list[F32 | None]:
        """Take one sample of each of some streams.

        Args:
            planes: (N, 3, h, w) uint8, as crops.fill_frame or fill_crop make them.
            memories: of the same streams, all different; they are brought up to date.

        Returns:
            For each stream the score of each class, 0..1, over its window so far; None before
            there are `signature.least` samples.

        Raises:
            EngineMismatch: planes of another size, or not one for each memory.
        """
        if len(planes) != len(memories) or len({id(m) for m in memories}) != len(memories):
            raise EngineMismatch(
                f"memories must be {len(planes)} different ones, one for each picture, "
                f"got {len(memories)}; a stream can take one sample at a time"
            )
        most = self.signature.max_batch or max(len(planes), 1)
        for start in range(0, len(planes), most):
            self._run(planes[start : start + most], memories[start : start + most])
        return [self.scores(memory) for memory in memories]

    def scores(self, memory: Memory) -> F32 | None:
        """Score a stream's window as it is: the mean over samples and pairs, levels weighted."""
        # as if the window were a clip: its first samples are only there to be compared with
        signature, logits = self.signature, list(memory.logits)
        if len(logits) < signature.least:
            return None
        own = np.mean([x[0] for x in logits[signature.lag :]], axis=0)
        levels = np.mean([x[1:] for x in logits[signature.least - 1 :]], axis=0)
        fused = np.tensordot(self.signature.weights, np.vstack([own[None], levels]), 1)
        odds = np.exp(fused - fused.max())
        return np.asarray(odds / odds.sum(), np.float32)

    def close(self) -> None:
        """Let go of the engine; safe to call twice."""
        self.engine.close()

    def _run(self, planes: U8, memories: Sequence[Memory]) -> None:
        """Run one request; a fixed batch is filled up with zeros."""
        signature = self.signature
        batch = signature.max_batch or len(planes)
        arrays: dict[str, Array] = {PLANES: _padded(planes, batch)}
        for index, spec in enumerate(signature.states):
            state = np.zeros((batch, *(n or 1 for n in spec.shape[1:])), spec.dtype)
            for row, memory in zip(state, memories, strict=False):
                if memory.maps is not None:
                    row[:] = memory.maps[index]
            arrays[spec.name] = state
        outputs = self.engine.infer(arrays)
        for row, memory in enumerate(memories):
            # copies: a view would keep the whole batch alive
            memory.maps = tuple(outputs[after(spec)][row].copy() for spec in signature.states)
            memory.logits.append(outputs[LOGITS][row].astype(np.float32))
            memory.samples += 1


def _padded(planes: U8, batch: int) -> U8:
    if len(planes) == batch:
        return np.ascontiguousarray(planes)
    padded = np.zeros((batch, *planes.shape[1:]), planes.dtype)
    padded[: len(planes)] = planes
    return padded
