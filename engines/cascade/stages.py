"""Run the three stage engines on one input: the first densely, the others on blocks; with numpy.

Blocks are gathered with a halo of one position, run in batches that fit a processor's cache, and
scattered back. Batches have one of a few lengths (buckets), because an engine prepares itself anew
for each length. From `dense_share` of all blocks on, the whole map is run as one block. Not
thread-safe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from engines.base import Engine
from engines.cascade.picture import F32, U8, Mask
from engines.cascade.signature import FILES, HALO, LAST_SHARE, Signature
from engines.errors import EngineFailed

BUCKETS = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128)
"""Lengths of batches; longer ones fall out of the cache and are slower."""


@dataclass(frozen=True, slots=True)
class Rule:
    """When a block leaves the cascade; engines.cascade.rule is the same in torch.

    rho: a position is decided when its largest softmax exceeds it; in (0, 1].
    share: a block goes on when more than this share of its positions is undecided; in [0, 1).
    """

    rho: float
    share: float

    def __post_init__(self) -> None:
        if not 0 < self.rho <= 1:
            raise ValueError(
                f"rho must be in (0, 1], got {self.rho}; 1 sends everything through all stages"
            )
        if not 0 <= self.share < 1:
            raise ValueError(
                f"share must be in [0, 1), got {self.share}; 0 sends each block on that has one "
                "undecided position"
            )

    def limit(self, stage: int) -> float:
        """Share of a block's positions that must be undecided for it to go beyond a stage."""
        return self.share if stage == 1 else max(self.share, LAST_SHARE)

    def undecided(self, confidence: F32, cells: int) -> F32:
        """Measure the share of undecided positions in each block of cells x cells."""
        open_ = ~(confidence > self.rho)
        h, w = confidence.shape
        share: F32 = open_.reshape(h // cells, cells, w // cells, cells).mean(
            axis=(1, 3), dtype=np.float32
        )
        return share


class Stages:
    """Three engines, the merged logits of the last input, and which stage gave each block's."""

    def __init__(
        self,
        engines: Sequence[Engine],
        signature: Signature,
        rule: Rule,
        *,
        dense_share: float = 0.8,
        least: int = 0,
    ) -> None:
        """Get ready; nothing is run.

        Args:
            engines: of the three stages.
            signature: of all three.
            rule: who travels on, unless a run says otherwise.
            dense_share: share of all blocks from which on the map is run whole; above 1 is never.
            least: if no more blocks than this are left, they leave too: the whole frame exits.
        """
        self.engines = tuple(engines)
        self.signature = signature
        self.rule = rule
        self.least = least
        rows, columns = signature.blocks
        cells = signature.cells
        self._dense_from = dense_share * rows * columns
        self.logits: F32 = np.zeros((len(signature.classes), rows * cells, columns * cells), "f4")
        self._table: F32 = np.zeros(
            (rows * cells + 2 * HALO, columns * cells + 2 * HALO, signature.channels), np.float32
        )
        self.stage_of: NDArray[np.uint8] = np.zeros((rows, columns), np.uint8)

    def run(
        self, planes: U8, wanted: Mask, *, rule: Rule | None = None, last: int = len(FILES)
    ) -> int:
        """Label the wanted blocks of an input; the others keep their logits.

        Args:
            planes: (3, h, w).
            wanted: (rows, columns) of blocks.
            rule: who travels on in this run; None is the tuned rule.
            last: number of stages to use; 1 is the cheapest and the worst.

        Returns:
            How many blocks went beyond stage 1.

        Raises:
            EngineFailed: the network gave something that is no number, or an engine broke.
        """
        rule = rule or self.rule
        outputs = self.engines[0].infer({"planes": planes[None]})
        cells = self.signature.cells
        self._merge(wanted, outputs["logits"][0])
        self.stage_of[wanted] = 1
        going = wanted & _going(rule, outputs["confidence"][0], cells // 2, 1)
        beyond = np.count_nonzero(going)
        for number in range(2, last + 1):
            left = np.count_nonzero(going)
            if left <= self.least:
                break
            if number == 2:
                self._fill_table(outputs["fine"][0], outputs["context"][0], _wider(going))
            if left >= self._dense_from:
                going = self._run_whole(number, going, rule)
            else:
                going = self._run_blocks(number, going, rule)
        return int(beyond)

    def warm_up(self) -> None:
        """Run every bucket once, so that no real frame waits for an engine to prepare itself."""
        edge, channels = self.signature.cells + 2 * HALO, self.signature.channels
        rows, columns = (n * self.signature.cells + 2 * HALO for n in self.signature.blocks)
        for engine in self.engines[1:]:
            for bucket in BUCKETS:
                engine.infer({"blocks": np.zeros((bucket, edge, edge, channels), np.float32)})
            engine.infer({"blocks": np.zeros((1, rows, columns, channels), np.float32)})

    def all_finite(self) -> bool:
        """Run each stage once, on all of a grey picture; False if any score is no number.

        Raises:
            EngineFailed: as for run.
        """
        rows, columns = self.signature.blocks
        grey = np.full((3, self.signature.height, self.signature.width), 128, np.uint8)
        everything = np.ones((rows, columns), bool)
        finite = True
        for last in (1, 2, 3):
            self.run(grey, everything, rule=Rule(1.0, 0.0), last=last)
            finite &= bool(np.isfinite(self.logits).all())
        return finite

    def close(self) -> None:
        """Let go of the engines."""
        for engine in self.engines:
            engine.close()

    def _run_blocks(self, number: int, going: Mask, rule: Rule) -> Mask:
        where = np.nonzero(going)
        outputs = self._infer_blocks(self.engines[number - 1], self._gather(where))
        _blocks_of(self.logits.transpose(1, 2, 0), self.signature.cells)[where] = outputs[
            "logits"
        ].transpose(0, 2, 3, 1)
        self.stage_of[where] = number
        if number == 3:
            return going
        _blocks_of(_inside(self._table), self.signature.cells)[where] = outputs["features"]
        _finite(outputs["confidence"], f"stage {number}")
        share = (~(outputs["confidence"] > rule.rho)).mean(axis=(1, 2), dtype=np.float32)
        on = np.zeros_like(going)
        on[where] = share > rule.limit(number)
        return on

    def _fill_table(self, fine: F32, context: F32, wanted: Mask) -> None:
        """Put the features of the wanted blocks side by side; the ring around all stays zero."""
        cells, inside = self.signature.cells, _inside(self._table)
        split = fine.shape[2]
        if np.count_nonzero(wanted) > wanted.size // 2:
            h, w = inside.shape[:2]
            inside[..., :split] = fine
            for down in (0, 1):
                for across in (0, 1):
                    inside[down:h:2, across:w:2, split:] = context
            return
        coarse = _blocks_of(context, cells // 2)[wanted]
        blocks = _blocks_of(inside, cells)
        blocks[wanted] = np.concatenate(
            [_blocks_of(fine, cells)[wanted], coarse.repeat(2, axis=1).repeat(2, axis=2)], axis=-1
        )

    def _gather(self, where: tuple[NDArray[np.intp], ...]) -> F32:
        """Blocks with their halo: (n, cells + 2 halo, cells + 2 halo, C)."""
        cells = self.signature.cells
        edge = cells + 2 * HALO
        windows = sliding_window_view(self._table, (edge, edge), axis=(0, 1))[::cells, ::cells]
        return np.ascontiguousarray(windows[where].transpose(0, 2, 3, 1))

    def _infer_blocks(self, engine: Engine, blocks: F32) -> dict[str, F32]:
        parts = []
        for first in range(0, len(blocks), BUCKETS[-1]):
            part = blocks[first : first + BUCKETS[-1]]
            batch = np.empty((bucket(len(part)), *part.shape[1:]), np.float32)
            batch[: len(part)] = part
            batch[len(part) :] = 0
            outputs = engine.infer({"blocks": batch})
            parts.append({name: array[: len(part)] for name, array in outputs.items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _run_whole(self, number: int, going: Mask, rule: Rule) -> Mask:
        """Run the map as one block; only the logits of blocks that go on are taken."""
        outputs = self.engines[number - 1].infer({"blocks": self._table[None]})
        self._merge(going, outputs["logits"][0])
        self.stage_of[going] = number
        if number == 3:
            return going
        cells = self.signature.cells
        if going.all():
            _inside(self._table)[...] = outputs["features"][0]
        else:
            features = _blocks_of(outputs["features"][0], cells)
            _blocks_of(_inside(self._table), cells)[going] = features[going]
        return going & _going(rule, outputs["confidence"][0], cells, number)

    def _merge(self, wanted: Mask, logits: F32) -> None:
        if wanted.all():
            self.logits[...] = logits
        else:
            cells = self.signature.cells
            blocks = _blocks_of(logits.transpose(1, 2, 0), cells)
            _blocks_of(self.logits.transpose(1, 2, 0), cells)[wanted] = blocks[wanted]


def _going(rule: Rule, confidence: F32, cells: int, stage: int) -> Mask:
    _finite(confidence, f"stage {stage}")
    going: Mask = rule.undecided(confidence, cells) > rule.limit(stage)
    return going


def bucket(count: int) -> int:
    """Length of the batch in which so many blocks are run."""
    return next(length for length in BUCKETS if length >= count)


def _blocks_of(plane: F32, cells: int) -> F32:
    """View a map (h, w, C) as its blocks, (rows, columns, cells, cells, C)."""
    h, w, channels = plane.shape
    down, across, inner = plane.strides
    blocks: F32 = np.lib.stride_tricks.as_strided(
        plane,
        (h // cells, w // cells, cells, cells, channels),
        (down * cells, across * cells, down, across, inner),
    )
    return blocks


def _wider(mask: Mask) -> Mask:
    """Add the eight neighbours of each block, whose features are read as halo."""
    wide: Mask = mask.copy()
    wide[1:] |= mask[:-1]
    wide[:-1] |= mask[1:]
    tall: Mask = wide.copy()
    wide[:, 1:] |= tall[:, :-1]
    wide[:, :-1] |= tall[:, 1:]
    return wide


def _inside(table: F32) -> F32:
    return table[HALO:-HALO, HALO:-HALO]


def _finite(confidence: F32, where: str) -> None:
    if not np.isfinite(confidence.sum()):
        raise EngineFailed(
            f"{where}: scores must be numbers, got NaN or infinity; the weights are damaged or the "
            "precision is too low: install the model again, or load it with precision f32"
        )
