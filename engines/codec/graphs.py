"""The ONNX graphs of one model folder on one device, each loaded when it is first run; runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines.base import Array, Engine
from engines.load import load_engine


class Graphs:
    """Runs graphs by name. An encoder never loads what only decoding needs."""

    def __init__(self, folder: Path, *, device: str, threads: int, precision: str | None) -> None:
        self._folder = folder
        self._device, self._threads, self._precision = device, threads, precision
        self._engines: dict[str, Engine] = {}

    def run(self, name: str, inputs: Mapping[str, Array]) -> dict[str, NDArray[np.float32]]:
        """Run <name>.onnx once.

        Raises:
            ModelError: the file is missing or damaged.
            EngineFailed: the library broke.
        """
        if name not in self._engines:
            self._engines[name] = load_engine(
                self._folder / f"{name}.onnx",
                device=self._device,
                threads=self._threads,
                precision=self._precision,
            )
        return self._engines[name].infer(inputs)

    def close(self) -> None:
        """Let go of all graphs."""
        for engine in self._engines.values():
            engine.close()
        self._engines.clear()


def channel_index(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Table of each symbol where channels have tables: the number of its channel."""
    return np.broadcast_to(np.arange(shape[0], dtype=np.uint8)[:, None, None], shape)
