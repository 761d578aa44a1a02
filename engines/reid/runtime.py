"""Turn boxes of people into vectors of their appearance; runs in the infer process.

Known are networks that take float32 Nx3xHxW of RGB, normalised as ImageNet is, and give NxD.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines.base import Engine
from engines.crops import F32, CropFormat, CropNetwork
from engines.errors import ModelError
from engines.load import load_engine
from engines.zoo import find_model

_MEAN = (123.675, 116.28, 103.53)
_SCALE = (1 / 58.395, 1 / 57.12, 1 / 57.375)
_SHORTEST, _LONGEST = 16, 4096  # lengths of a vector that can be one of appearance


class Embedder:
    """One ReID network on one engine."""

    def __init__(self, engine: Engine, where: str) -> None:
        """Check that an engine gives vectors of crops; usually made by `load`.

        Raises:
            ModelError: it doesn't.
        """
        specs = (*engine.inputs, *engine.outputs)
        image, output = specs[0], specs[-1]
        fits = (
            len(specs) == 2
            and len(image.shape) == 4
            and image.shape[1] == 3
            and None not in image.shape[2:]
            and image.dtype == np.float32
            and len(output.shape) == 2
            and _SHORTEST <= (output.shape[1] or 0) <= _LONGEST
        )
        if not fits:
            raise ModelError(
                f"{where}: a network of appearance must take float32 Nx3xHxW and give NxD with D "
                f"from {_SHORTEST} to {_LONGEST}, got {'; '.join(map(str, specs))}; "
                "export it without its classifier"
            )
        height, width = (length or 0 for length in image.shape[2:])
        self.engine = engine
        self.size = output.shape[1] or 0
        self.network = CropNetwork(
            engine, CropFormat(width, height, "rgb", mean=_MEAN, scale=_SCALE)
        )

    @classmethod
    def load(
        cls,
        name_or_path: str | Path,
        *,
        device: str = "auto",
        streams: int = 1,
        batch: int | None = None,
    ) -> Embedder:
        """Load a network of appearance; the options are those of load_engine.

        Raises:
            ModelError: no such model, a damaged file, or not of this kind.
            EngineUnavailable: nothing here runs on that device.
        """
        path = find_model(name_or_path)
        engine = load_engine(path, device=device, streams=streams, batch=batch)
        try:
            return cls(engine, str(path))
        except ModelError:
            engine.close()
            raise

    def close(self) -> None:
        """Let go of the engine; safe to call twice."""
        self.engine.close()


def unit(vectors: F32) -> NDArray[np.float16]:
    """Scale vectors (N, D) to length 1, in half the bytes."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float16)
