"""The ONNX graphs of one model folder on one device, each loaded when it is first run; runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engines.base import Array, Engine
from engines.errors import EngineUnavailable
from engines.load import DEVICES, choose_library, load_engine

Shapes = dict[str, tuple[int, ...]]


class Networks(Protocol):
    """Runs the networks of a codec by the names of their graphs."""

    def run(self, name: str, inputs: Mapping[str, Array]) -> dict[str, NDArray[np.float32]]:
        """Outputs by name."""

    def close(self) -> None:
        """Let go of what is loaded."""


class Graphs:
    """Runs graphs by name. An encoder never loads what only decoding needs."""

    def __init__(self, folder: Path, *, device: str, threads: int, precision: str | None) -> None:
        self._folder = folder
        self._device, self._threads, self._precision = device, threads, precision
        self._engines: dict[str, Engine] = {}
        self._fixes_sizes = runs_fixed_sizes(device)
        self._shapes: dict[str, Shapes] = {}

    def run(self, name: str, inputs: Mapping[str, Array]) -> dict[str, NDArray[np.float32]]:
        """Run <name>.onnx once; a compiler of fixed sizes makes an engine for each new one.

        Raises:
            ModelError: the file is missing or damaged.
            EngineUnavailable: the device needs what is not installed.
            EngineFailed: the library broke.
        """
        shapes = {key: array.shape for key, array in inputs.items()} if self._fixes_sizes else {}
        if name not in self._engines or self._shapes[name] != shapes:
            self._load(name, shapes)
        return self._engines[name].infer(inputs)

    def _load(self, name: str, shapes: Shapes) -> None:
        if name in self._engines:
            self._engines.pop(name).close()
        path = self._folder / f"{name}.onnx"
        with TemporaryDirectory() as folder:  # what is compiled lies in the cache of engines
            if shapes:
                path = _fixed(path, shapes, Path(folder))
            self._engines[name] = load_engine(
                path, device=self._device, threads=self._threads, precision=self._precision
            )
        self._shapes[name] = shapes

    def close(self) -> None:
        """Let go of all graphs."""
        for engine in self._engines.values():
            engine.close()
        self._engines.clear()


def runs_fixed_sizes(device: str) -> bool:
    """True for a device whose library compiles a graph for one picture size."""
    match = DEVICES.fullmatch(device.lower())
    return match is not None and (match[1] or choose_library(match[2])) == "tensorrt"


def _fixed(path: Path, shapes: Shapes, folder: Path) -> Path:
    try:
        from engines.codec.fixed import fix_sizes
    except ImportError as error:
        raise EngineUnavailable(
            f"{path.name}: needs onnx to fix its sizes ({error}); pip install 'streamer[tensorrt]'"
        ) from error
    fixed = folder / f"{path.parent.name}-{path.name}"
    fixed.write_bytes(fix_sizes(path, shapes))
    return fixed


def channel_index(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Table of each symbol where channels have tables: the number of its channel."""
    return np.broadcast_to(np.arange(shape[0], dtype=np.uint8)[:, None, None], shape)
