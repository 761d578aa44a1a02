"""Take a detector's boxes through second-stage networks, one after the other; in infer.

A verifier rejects boxes, so that later networks don't see them; others give labels or appearance.
Each network looks at boxes of all cameras at once; frames overtake each other here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from engines.classifiers.runtime import Classifier
from engines.crops import U8, CropNetwork, Piece
from engines.detectors.outlines import Outline
from engines.reid.runtime import Embedder, unit
from streamer.config import ClassifierConfig
from streamer.errors import ConfigError
from streamer.inference.crops import CropQueue

Owner = TypeVar("Owner")
F32 = NDArray[np.float32]
Rows = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Found:
    """The objects of one frame as they are known by now, by falling score."""

    boxes_xyxy: F32
    scores: F32
    classes: NDArray[np.int16]
    labels: tuple[str, ...] = ()
    """One for each box, or none at all."""
    embeddings: NDArray[np.float16] | None = None
    """(N, D); zeros for boxes that were not looked at."""
    outlines: tuple[Outline, ...] = ()
    """One for each box, or none at all."""

    def __len__(self) -> int:
        return len(self.scores)

    def rows(self, rows: Rows) -> Found:
        """These boxes in this order."""
        return Found(
            self.boxes_xyxy[rows],
            self.scores[rows],
            self.classes[rows],
            tuple(self.labels[row] for row in rows.tolist()) if self.labels else (),
            None if self.embeddings is None else self.embeddings[rows],
            tuple(self.outlines[row] for row in rows.tolist()) if self.outlines else (),
        )


class Step(Protocol):
    """One second look."""

    @property
    def name(self) -> str:
        """Of its counters."""

    @property
    def network(self) -> CropNetwork: ...

    def rows(self, found: Found) -> Rows:
        """Which boxes it looks at."""

    def apply(self, found: Found, rows: Rows, said: F32) -> Found:
        """What is known after it has said (rows, values) of them."""


class Opinion:
    """A classifier as a step: a verifier, a finer class, or attributes.

    Args:
        classifier: loaded.
        settings: as configured.
        classes: of the detector.
        score_low: of the detector.
    """

    def __init__(
        self,
        classifier: Classifier,
        settings: ClassifierConfig,
        classes: Sequence[str],
        score_low: float,
    ) -> None:
        unknown = sorted(set(settings.classes) - set(classes))
        if unknown:
            raise ConfigError(
                f"detector.then: {settings.model}: classes must be of the detector's "
                f"{', '.join(classes)}, got {', '.join(unknown)}; drop them"
            )
        self.name = settings.model.rpartition("/")[2].removesuffix(".onnx")
        self.network = classifier.network
        self._classifier = classifier
        self._settings = settings
        self._columns = classifier.columns(classes)
        wanted = [not settings.classes or name in settings.classes for name in classes]
        self._wanted = (self._columns >= 0) & np.array(wanted)
        if not self._wanted.any():
            raise ConfigError(
                f"detector.then: {settings.model}: judges {classifier.signature.accepts}, none of "
                f"the detector's {', '.join(classes)}; use one that was made for this detector"
            )
        self._verifies = classifier.signature.kind == "verifier"
        self._least = settings.least or (score_low if self._verifies else 0.5)

    def rows(self, found: Found) -> Rows:
        """The best boxes that the detector is not sure of."""
        doubtful = self._wanted[found.classes] & (found.scores < self._settings.sure)
        return np.flatnonzero(doubtful)[: self._settings.crops]

    def apply(self, found: Found, rows: Rows, said: F32) -> Found:
        """Reject boxes, or label them."""
        if self._verifies:
            return self._verify(found, rows, said)
        labels = list(found.labels or [""] * len(found))
        for row, label in zip(
            rows.tolist(), self._classifier.labels(said, self._least), strict=True
        ):
            labels[row] = " ".join(filter(None, (labels[row], label)))
        return replace(found, labels=tuple(labels))

    def _verify(self, found: Found, rows: Rows, said: F32) -> Found:
        columns = self._columns[found.classes[rows]]
        scores = found.scores.copy()
        scores[rows] = self._classifier.second_opinion(scores[rows], said, columns)
        rejected = np.zeros(len(found), bool)
        rejected[rows] = scores[rows] < self._least
        order = np.argsort(-scores, kind="stable")
        return replace(found, scores=scores).rows(order[~rejected[order]])


class Appearance:
    """An embedder as a step.

    Args:
        embedder: loaded.
        score: least score of a box that is worth it.
        crops: boxes of one frame at the most.
        wanted: (classes,) which of the detector's classes have an appearance.
    """

    name = "reid"

    def __init__(
        self, embedder: Embedder, *, score: float, crops: int, wanted: NDArray[np.bool_]
    ) -> None:
        self.network = embedder.network
        self._size = embedder.size
        self._score, self._crops, self._wanted = score, crops, wanted

    def rows(self, found: Found) -> Rows:
        """The best boxes."""
        seen = (found.scores >= self._score) & self._wanted[found.classes]
        return np.flatnonzero(seen)[: self._crops]

    def apply(self, found: Found, rows: Rows, said: F32) -> Found:
        """Give each box its vector."""
        embeddings = np.zeros((len(found), self._size), np.float16)
        embeddings[rows] = unit(said)
        return replace(found, embeddings=embeddings)


@dataclass(slots=True)
class _Visit(Generic[Owner]):
    """One frame at one step."""

    owner: Owner
    planes: tuple[U8, U8, U8]
    matrix: str
    found: Found
    step: int = 0
    rows: Rows = field(default_factory=lambda: np.empty(0, np.intp))


class Refinement(Generic[Owner]):
    """All steps with their queues.

    Args:
        steps: in their order.
        most: boxes in one call at the most.
        wake: called on a thread of an engine when there is something for `finished`.
    """

    def __init__(self, steps: Sequence[Step], *, most: int, wake: Callable[[], None]) -> None:
        self._steps = steps
        self._queues: list[CropQueue[_Visit[Owner]]] = [
            CropQueue(step.network, most=most, wake=wake) for step in steps
        ]
        self._done: list[tuple[Owner, Found]] = []
        self.rejected = 0

    def begin(self, owner: Owner, planes: tuple[U8, U8, U8], matrix: str, found: Found) -> None:
        """A detector has found something; the planes must stay until it is finished."""
        self._advance(_Visit(owner, planes, matrix, found))

    def finished(self) -> list[tuple[Owner, Found]]:
        """Take the frames that are through.

        Raises:
            EngineError: a network failed.
        """
        for step, queue in zip(self._steps, self._queues, strict=True):
            for look in queue.finished():
                visit = look.owner
                before = len(visit.found)
                visit.found = step.apply(visit.found, visit.rows, look.said)
                self.rejected += before - len(visit.found)
                visit.step += 1
                self._advance(visit)
        done, self._done = self._done, []
        return done

    def counters(self) -> dict[str, int]:
        """Boxes looked at and calls made, by step, and boxes rejected."""
        counts = {"rejected": self.rejected} if self._steps else {}
        for step, queue in zip(self._steps, self._queues, strict=True):
            counts[f"crops.{step.name}"] = queue.boxes
            counts[f"crop_calls.{step.name}"] = queue.calls
        return counts

    def close(self) -> None:
        """Let go of all engines."""
        for queue in self._queues:
            queue.close()

    def _advance(self, visit: _Visit[Owner]) -> None:
        """Queue a frame at the next step that has something to look at."""
        while visit.step < len(self._steps):
            visit.rows = self._steps[visit.step].rows(visit.found)
            if len(visit.rows):
                boxes = visit.found.boxes_xyxy[visit.rows]
                piece = Piece(visit.planes, boxes, visit.matrix)
                self._queues[visit.step].add(visit, piece)
                return
            visit.step += 1
        self._done.append((visit.owner, visit.found))
