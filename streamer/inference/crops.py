"""Feed one network with boxes of all cameras' frames, as many in a call as it takes; in infer.

Frames queue with any number of boxes; calls are cut from that queue without regard to where one
frame ends, and a frame is complete when all its boxes are. Used by the main thread; the engine's
threads only hand back what they made.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from engines.base import Array
from engines.crops import CropNetwork, Piece
from engines.errors import EngineError

Owner = TypeVar("Owner")
F32 = NDArray[np.float32]


@dataclass(slots=True)
class Look(Generic[Owner]):
    """The boxes of one frame that a network looks at."""

    owner: Owner
    piece: Piece
    parts: list[F32] = field(default_factory=list)
    """What was said, by call; in the order of the boxes, since calls may land in any."""
    missing: int = 0

    @property
    def said(self) -> F32:
        """(boxes, values)."""
        return np.concatenate(self.parts)


@dataclass(slots=True)
class _Share(Generic[Owner]):
    """The part of a look that one call holds."""

    look: Look[Owner]
    part: int
    boxes: int


class CropQueue(Generic[Owner]):
    """The queue in front of one network.

    Args:
        network: on its engine.
        most: boxes in one call at the most, if the network does not say.
        wake: called on a thread of the engine when a call has landed.
    """

    def __init__(self, network: CropNetwork, *, most: int, wake: Callable[[], None]) -> None:
        self._network = network
        self._most = network.batch or most
        self._wake = wake
        self._waiting: deque[tuple[Look[Owner], int]] = deque()
        self._landed: deque[tuple[list[_Share[Owner]], dict[str, Array] | EngineError]] = deque()
        self._flying = 0
        self.calls = 0
        self.boxes = 0

    def add(self, owner: Owner, piece: Piece) -> None:
        """Queue the boxes of one frame; at least one."""
        assert len(piece.boxes_xyxy)
        self._waiting.append((Look(owner, piece, missing=len(piece.boxes_xyxy)), 0))
        self.start()

    def start(self) -> None:
        """Give the engine all that it has room for."""
        while self._waiting and self._flying < self._network.engine.depth:
            shares, pieces = self._next_call()
            self._flying += 1
            self.calls += 1
            self.boxes += sum(share.boxes for share in shares)
            inputs = self._network.prepare(pieces)
            self._network.engine.start(inputs, partial(self._land, shares))

    def finished(self) -> list[Look[Owner]]:
        """Take the frames that are complete since the last time.

        Raises:
            EngineError: a call failed.
        """
        complete = []
        while self._landed:
            shares, outputs = self._landed.popleft()
            self._flying -= 1
            if isinstance(outputs, EngineError):
                raise outputs
            rows = self._network.read(outputs, sum(share.boxes for share in shares))
            start = 0
            for share in shares:
                look = share.look
                look.parts[share.part] = rows[start : start + share.boxes]
                start += share.boxes
                look.missing -= share.boxes
                if look.missing == 0:
                    complete.append(look)
        self.start()
        return complete

    def close(self) -> None:
        """Let go of the engine."""
        self._network.engine.close()

    def _next_call(self) -> tuple[list[_Share[Owner]], list[Piece]]:
        shares: list[_Share[Owner]] = []
        pieces: list[Piece] = []
        room = self._most
        while self._waiting and room:
            look, start = self._waiting.popleft()
            boxes = look.piece.boxes_xyxy[start : start + room]
            shares.append(_Share(look, len(look.parts), len(boxes)))
            look.parts.append(np.empty((0, 0), np.float32))
            pieces.append(Piece(look.piece.planes, boxes, look.piece.matrix))
            room -= len(boxes)
            if start + len(boxes) < len(look.piece.boxes_xyxy):
                self._waiting.appendleft((look, start + len(boxes)))
        return shares, pieces

    def _land(self, shares: list[_Share[Owner]], outputs: dict[str, Array] | EngineError) -> None:
        """Runs on a thread of the engine."""
        self._landed.append((shares, outputs))
        self._wake()
