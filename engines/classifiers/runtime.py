"""Turn boxes and what a classifier says of them into better scores, or into labels.

Runs in the infer process, numpy alone beside the engine; keeps no state.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines.base import Engine
from engines.classifiers.signature import Signature, recognise
from engines.crops import F32, CropNetwork
from engines.errors import ModelError
from engines.load import load_engine
from engines.zoo import find_model

_CLOSEST = 1e-6  # to a score of 0 or 1


class Classifier:
    """One second-stage network on one engine."""

    def __init__(self, engine: Engine, signature: Signature) -> None:
        self.engine = engine
        self.signature = signature
        self.network = CropNetwork(engine, signature.crop)

    @classmethod
    def load(
        cls,
        name_or_path: str | Path,
        *,
        device: str = "auto",
        streams: int = 1,
        batch: int | None = None,
    ) -> Classifier:
        """Load a classifier of the zoo by name, or an ONNX file that says what it is.

        Raises:
            ModelError: no such model, a damaged file, or one that does not say what it is.
            EngineUnavailable: nothing here runs on that device.
        """
        path = find_model(name_or_path)
        engine = load_engine(path, device=device, streams=streams, batch=batch)
        try:
            return cls(engine, recognise(engine, str(path)))
        except ModelError:
            engine.close()
            raise

    def columns(self, classes: Sequence[str]) -> NDArray[np.intp]:
        """The output that judges each of a detector's classes; -1 where there is none.

        Only a verifier judges; the others look at every class.
        """
        if self.signature.kind != "verifier":
            return np.zeros(len(classes), np.intp)
        accepts = self.signature.accepts
        found = [[i for i, group in enumerate(accepts) if name in group] for name in classes]
        return np.array([columns[0] if columns else -1 for columns in found], np.intp)

    def second_opinion(self, scores: F32, logits: F32, columns: NDArray[np.intp]) -> F32:
        """Scores (N,) of boxes from both opinions, 0..1.

        Args:
            scores: (N,) the detector's.
            logits: (N, names) the verifier's.
            columns: (N,) which of them judges each box.
        """
        ours, theirs, offset = self.signature.fusion
        kept = np.clip(scores, _CLOSEST, 1 - _CLOSEST)
        first = np.log(kept / (1 - kept))
        both = ours * first + theirs * logits[np.arange(len(scores)), columns] + offset
        fused: F32 = _sigmoid(both).astype(np.float32)
        return fused

    def labels(self, logits: F32, least: float) -> list[str]:
        """What is said of each crop: its class, or its attributes; empty where nothing is sure."""
        names = self.signature.names
        if self.signature.kind == "classes":
            exps = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
            chances = exps / exps.sum(axis=1, keepdims=True)
            best = chances.argmax(axis=1)
            return [
                names[index] if row[index] >= least else ""
                for row, index in zip(chances, best, strict=True)
            ]
        return [
            " ".join(name for name, holds in zip(names, row, strict=True) if holds)
            for row in _sigmoid(logits) >= least
        ]

    def close(self) -> None:
        """Let go of the engine; safe to call twice."""
        self.engine.close()


def _sigmoid(logits: F32) -> F32:
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -60, 60))), np.float32)
