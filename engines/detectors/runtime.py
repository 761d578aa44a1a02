"""Turn frames into boxes: feed a detector's engine with planes and decode what it says.

Runs in the infer process, numpy and OpenCV beside the engine. prepare and decode keep no state,
so several threads may call them while the engine works on other frames.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.base import Engine
from engines.detectors.decode import F32, I16, Found, decode
from engines.detectors.families import recognise
from engines.detectors.outlines import Outline, outlines
from engines.detectors.preprocess import U8, Placement, fill_input, place
from engines.detectors.signature import NO_CLASS, Signature
from engines.errors import EngineMismatch, ModelError
from engines.feed import read_feed
from engines.load import load_engine
from engines.onnxgraph import read_graph
from engines.zoo import find_model

Outputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Detections:
    """Objects in one frame, by falling score.

    boxes_xyxy: (N, 4) float32, pixels of the frame, clipped to it. scores: (N,) float32, 0..1.
    classes: (N,) int16, indices into the detector's classes. outlines: N, clipped like the boxes;
    none at all where the network gives no masks.
    """

    boxes_xyxy: F32
    scores: F32
    classes: I16
    outlines: tuple[Outline, ...] = ()

    def __len__(self) -> int:
        return len(self.scores)


class Detector:
    """One detector on one engine."""

    def __init__(
        self,
        engine: Engine,
        signature: Signature,
        *,
        score: float = 0.1,
        nms_iou: float = 0.45,
        only: Sequence[str] | None = None,
        operators: Collection[str] = (),
    ) -> None:
        """Decode an engine as its signature says; usually made by `load`.

        Args:
            engine: ready to run.
            signature: how to feed and read it.
            score: lowest score that is reported; a tracker uses low ones for a second look.
            nms_iou: highest overlap that two boxes of one class may have.
            only: names of the classes to report; None is all.
            operators: kinds of operators in the graph, where they are known.

        Raises:
            ValueError: a threshold is not in 0..1, or the network knows no such class.
        """
        if not (0 < score < 1 and 0 < nms_iou <= 1):
            raise ValueError(
                f"score must be between 0 and 1 and nms_iou in (0, 1], got {score} and {nms_iou}"
            )
        unknown = sorted(set(only or ()) - set(signature.classes))
        if unknown:
            raise ValueError(
                f"classes must be of {', '.join(signature.classes)}, got {', '.join(unknown)}; "
                "drop them, or choose a detector that knows them"
            )
        self.engine = engine
        self.signature = signature
        self.score = score
        self.nms_iou = nms_iou
        self.operators = frozenset(operators)
        self._feed = read_feed(engine.metadata, signature.family)
        self._wanted = np.array(
            [name != NO_CLASS and (only is None or name in only) for name in signature.classes]
        )

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
        score: float = 0.1,
        nms_iou: float = 0.45,
        only: Sequence[str] | None = None,
    ) -> Detector:
        """Load a detector of the zoo by name, or any known ONNX detector by path.

        The options are those of load_engine and of Detector.

        Raises:
            ModelError: no such model, a damaged file, or no known kind of detector.
            EngineUnavailable: nothing here runs on that device.
            ValueError: an option makes no sense.
        """
        path = find_model(name_or_path)
        engine = load_engine(
            path,
            device=device,
            streams=streams,
            threads=threads,
            precision=precision,
            batch=batch,
        )
        try:
            operators = read_graph(path.read_bytes(), str(path)).operators
            signature = recognise(engine, str(path), operators=operators)
            return cls(
                engine, signature, score=score, nms_iou=nms_iou, only=only, operators=operators
            )
        except (ModelError, ValueError):
            engine.close()
            raise

    @property
    def classes(self) -> tuple[str, ...]:
        """Names that Detections.classes index."""
        return self.signature.classes

    @property
    def max_batch(self) -> int | None:
        """Frames that one request may hold; None for any number."""
        return self.signature.max_batch

    def prepare(self, y: U8, u: U8, v: U8, *, matrix: str = "bt601") -> dict[str, NDArray[Any]]:
        """Scale and convert one frame into a fresh input of the engine."""
        return self.prepare_batch([(y, u, v)], matrix=matrix)

    def prepare_batch(
        self, frames: Sequence[tuple[U8, U8, U8]], *, matrix: str = "bt601"
    ) -> dict[str, NDArray[Any]]:
        """Scale and convert several frames, of any sizes, into one fresh input of the engine.

        Raises:
            EngineMismatch: the network takes another number of frames.
        """
        if self.max_batch not in (None, len(frames)):
            raise EngineMismatch(
                f"{self.signature.family}: batch must be {self.max_batch}, got {len(frames)}; "
                "send the frames one by one, or export the network with a free batch axis"
            )
        if self._feed is not None:
            return self._feed.arrays(frames)
        image = self.signature.input
        filled = self._filled([(y.shape[1], y.shape[0]) for y, *_ in frames])
        batch = np.empty((len(frames), 3, filled.height, filled.width), image.dtype)
        for out, (y, u, v) in zip(batch, frames, strict=True):
            fill_input(y, u, v, self.signature, out, matrix=matrix)
        return {image.name: batch}

    def decode(self, outputs: Outputs, width: int, height: int) -> Detections:
        """Read the boxes of one frame of width x height pixels."""
        return self.decode_batch(outputs, [(width, height)])[0]

    def decode_batch(self, outputs: Outputs, sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        """Read the boxes of a batch; sizes are the frames' (width, height), in their order."""
        arrays = [_floats(outputs[spec.name]) for spec in self.signature.outputs]
        if len(arrays[0]) != len(sizes):
            raise EngineMismatch(
                f"{self.signature.family}: sizes must be given for each of {len(arrays[0])} "
                f"frames, got {len(sizes)}"
            )
        places = [place(width, height, self.signature) for width, height in sizes]
        whole = arrays[0].shape[1:] == self.signature.output.shape[1:]  # as other engines give it
        found = decode(
            arrays,
            self.signature if whole else self._filled(sizes),
            extents=np.array([(at.width, at.height) for at in places], np.float32),
            score=self.score,
            iou=self.nms_iou,
            wanted=self._wanted,
        )
        return [
            _in_frame(one, at, size) for one, at, size in zip(found, places, sizes, strict=True)
        ]

    def _filled(self, sizes: Sequence[tuple[int, int]]) -> Signature:
        """The signature for as much of the input as frames of these widths and heights fill.

        Some padding is left where there was any: an object that ends where the input ends is not
        what the network was trained on.
        """
        step = self.engine.picture_step
        if not step:
            return self.signature
        places = [place(*size, self.signature) for size in sizes]
        image = self.signature.input
        height = min(self.signature.height, (max(at.height for at in places) // step + 1) * step)
        width = min(self.signature.width, (max(at.width for at in places) // step + 1) * step)
        return replace(
            self.signature, input=replace(image, shape=(*image.shape[:2], height, width))
        )

    def detect(self, y: U8, u: U8, v: U8, *, matrix: str = "bt601") -> Detections:
        """Detect objects in one frame and wait for them."""
        outputs = self.engine.infer(self.prepare(y, u, v, matrix=matrix))
        return self.decode(outputs, y.shape[1], y.shape[0])

    def close(self) -> None:
        """Let go of the engine; safe to call twice."""
        self.engine.close()


def _floats(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _in_frame(found: Found, at: Placement, size: tuple[int, int]) -> Detections:
    """Scale boxes to the frame and clip them to it."""
    scale = np.array([at.scale_x, at.scale_y] * 2, np.float32)
    limits = np.array(size * 2, np.float32)
    whole = found.boxes_xyxy / scale
    boxes = np.minimum(np.maximum(whole, np.float32(0)), limits)
    visible = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)  # a box may lie wholly in the padding
    traced: tuple[Outline, ...] = ()
    if found.masks is not None:
        traced = outlines(found.masks[visible], whole[visible], size)
    return Detections(boxes[visible], found.scores[visible], found.classes[visible], traced)
