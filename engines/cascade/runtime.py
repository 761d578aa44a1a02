"""Turn frames into maps of labels with the cascade's three engines, and carry labels over in video.

Runs in the infer process, numpy and OpenCV beside the engines. A Segmenter may label frames of many
cameras one after the other; what is carried from frame to frame lies in a Memory, one per camera.
Not thread-safe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

import engines.zoo
from engines.base import Engine
from engines.cascade.carry import Carry, CarryOptions, content_blocks
from engines.cascade.classes import CAMVID_CLASSES, PALETTE_RGB
from engines.cascade.motion import Mover
from engines.cascade.picture import F32, U8, Mask, Placement, best_labels, fill_input
from engines.cascade.signature import FILES, STRIDE, Signature, read_classes, recognise
from engines.cascade.stages import Rule, Stages
from engines.errors import EngineFailed, EngineMismatch, ModelError
from engines.load import load_engine

OutStride = Literal[1, 2, 4]
_CARRIED = 0
_BY_STAGE = (1, 2, 3)


@dataclass(frozen=True, slots=True)
class LabelMap:
    """Labels of one frame.

    width, height: of the map, which covers the whole frame, whatever size that has.
    labels: (height, width) uint8, indices into the segmenter's classes; not to be written to, for
        the next frame may carry them.
    shares: (classes,) float32, of the map's area; they sum to 1.
    decided: share of the blocks whose labels stage 1, 2 and 3 gave for this frame.
    carried: share of the blocks whose labels are those of an earlier frame; all four sum to 1.
    """

    width: int
    height: int
    labels: U8
    shares: F32
    decided: tuple[float, float, float]
    carried: float


class Memory:
    """What one camera's frames carry over: the pictures and scores behind its present labels."""

    def __init__(self, options: CarryOptions, signature: Signature) -> None:
        self.carry = Carry(options, signature.block_px)
        self.mover = Mover(signature.block_px)
        self.luma: U8 = np.zeros((signature.height, signature.width), np.uint8)
        self.logits: F32 | None = None
        self.stage_of: U8 = np.zeros(signature.blocks, np.uint8)
        """Stage that gave each block's present labels."""
        self.last: LabelMap | None = None

    def reset(self) -> None:
        """Forget everything; nothing is carried into the next frame."""
        self.carry.reset()
        self.logits = self.last = None


class Segmenter:
    """One cascade on one kind of engine."""

    def __init__(
        self,
        stages: Stages,
        classes: Sequence[str] | None = None,
        *,
        carry: CarryOptions | None = None,
        out_stride: OutStride = 1,
    ) -> None:
        """Label with engines that are ready; usually made by `load`.

        Args:
            stages: the three engines.
            classes: names, if not those of the network.
            carry: how labels are carried from frame to frame; None labels each frame anew.
            out_stride: 1 gives each pixel of the network's input a label, 2 each second, 4 each
                fourth in each direction.

        Raises:
            ValueError: another out_stride, or another number of names than of classes.
        """
        if out_stride not in (1, 2, 4):
            raise ValueError(f"out_stride must be 1, 2 or 4, got {out_stride!r}")
        known = stages.signature.classes
        if classes is not None and len(classes) != len(known):
            raise ValueError(f"classes must be {len(known)} names, got {len(classes)}")
        self.stages = stages
        self.folder: Path | None = None
        self.classes = tuple(classes or known)
        self.carry = carry
        self.out_stride = out_stride
        signature = stages.signature
        self._input: U8 = np.zeros((3, signature.height, signature.width), np.uint8)
        self._memory = self.new_memory()

    @classmethod
    def load(
        cls,
        name_or_folder: str | Path = "cascade",
        *,
        device: str = "auto",
        threads: int = 1,
        precision: str | None = None,
        rho: float | None = None,
        share: float | None = None,
        classes_file: str | Path | None = None,
        carry: CarryOptions | None = None,
        out_stride: OutStride = 1,
    ) -> Segmenter:
        """Load a cascade of the zoo by name, or a folder of three ONNX stages.

        Args:
            name_or_folder: "cascade", or a folder with stage1.onnx, stage2.onnx and stage3.onnx.
            device: as for load_engine.
            threads: CPU threads of each engine; the engines never run side by side.
            precision: as for load_engine.
            rho: confidence above which a position is decided; None is the tuned one.
            share: undecided share above which a block goes on; None is the tuned one.
            classes_file: other names for the classes, one a line.
            carry: as for Segmenter.
            out_stride: as for Segmenter.

        Raises:
            ModelError: a file is missing, damaged, not of one cascade, its weights are no numbers,
                or the class file does not fit.
            EngineUnavailable: nothing here runs on that device.
            ValueError: an option makes no sense.
        """
        folder = find_cascade(name_or_folder)
        loaded: list[Engine] = []
        try:
            for file in FILES:
                loaded.append(
                    load_engine(folder / file, device=device, threads=threads, precision=precision)
                )
            signature = recognise(loaded, folder)
            rule = Rule(
                signature.rho if rho is None else rho, signature.share if share is None else share
            )
            names = (
                None
                if classes_file is None
                else read_classes(Path(classes_file), len(signature.classes))
            )
            segmenter = cls(
                Stages(loaded, signature, rule), names, carry=carry, out_stride=out_stride
            )
            segmenter.check(folder)
            segmenter.folder = folder
            return segmenter
        except Exception:
            for engine in loaded:
                engine.close()
            raise

    def new_memory(self) -> Memory | None:
        """Make the memory of one more camera; None where nothing is carried."""
        return None if self.carry is None else Memory(self.carry, self.stages.signature)

    @property
    def palette_rgb(self) -> U8:
        """(classes, 3) colours for drawing."""
        count = len(self.classes)
        if self.stages.signature.classes == CAMVID_CLASSES:
            return PALETTE_RGB
        palette: U8 = np.resize(PALETTE_RGB, (count, 3))
        return palette

    def segment(
        self,
        planes: tuple[U8, U8, U8],
        matrix: str = "bt601",
        media_time_ns: int = 0,
        discontinuity: bool = False,
        *,
        memory: Memory | None = None,
        rule: Rule | None = None,
    ) -> LabelMap:
        """Label one frame and wait for it.

        Args:
            planes: Y, U, V of 4:2:0, limited range, of any size.
            matrix: their colour matrix, "bt601" or "bt709".
            media_time_ns: of the frame; only carrying over needs it.
            discontinuity: the frame does not follow the one before; nothing is carried into it.
            memory: of the frame's camera; None is the segmenter's own, enough for one camera.
            rule: who travels on in this frame; None is the tuned rule.

        Raises:
            ValueError: planes of other sizes than 4:2:0, or an unknown matrix.
            EngineFailed: an engine broke, or the network gave something that is no number.
        """
        at = fill_input(*planes, self._input, matrix=matrix)
        memory = memory or self._memory
        rule = rule or self.stages.rule
        content = content_blocks(at, self._input.shape, self.stages.signature.block_px)
        if memory is None:
            return self._label(at, content, content, rule)
        wanted = memory.carry.choose(self._input, at, media_time_ns, discontinuity=discontinuity)
        if memory.last is not None and not wanted.any():
            return self._carried(memory)
        if memory.logits is not None:
            self.stages.logits[...] = memory.logits
            # Stage 1 runs on the whole frame anyway, so what it decided is taken anew everywhere:
            # it may depend on what has changed elsewhere. What later stages found out is carried.
            wanted |= content & (memory.stage_of == 1)
        rule = replace(rule, rho=max(rule.rho, memory.carry.options.rho))
        try:
            memory.last = self._label(at, content, wanted, rule)
        except EngineFailed:
            memory.reset()
            raise
        memory.luma[...] = self._input[0]
        memory.logits = self.stages.logits.copy()
        memory.stage_of = np.where(wanted, self.stages.stage_of, memory.stage_of)
        return memory.last

    def check(self, folder: Path) -> None:
        """Warm the engines up and look whether their weights are numbers.

        Raises:
            ModelError: they are not, or the engines don't fit each other.
        """
        try:
            self.stages.warm_up()
            finite = self.stages.all_finite()
        except (EngineFailed, EngineMismatch) as error:
            raise ModelError(f"{folder}: the model can't be used: {error}") from error
        if not finite:
            raise ModelError(
                f"{folder}: weights must be numbers, got NaN or infinity in the scores; "
                "export or download the model again"
            )

    def close(self) -> None:
        """Let go of the engines; safe to call twice."""
        self.stages.close()

    def _label(self, at: Placement, content: Mask, wanted: Mask, rule: Rule) -> LabelMap:
        self.stages.stage_of[...] = _CARRIED
        self.stages.run(self._input, wanted, rule=rule)
        labels = best_labels(self.stages.logits, at, STRIDE, self.out_stride)
        by = np.bincount(self.stages.stage_of[content], minlength=len(_BY_STAGE) + 1)
        first, second, third = (float(by[stage] / by.sum()) for stage in _BY_STAGE)
        return self._mapped(labels, (first, second, third), float(by[_CARRIED] / by.sum()))

    def _carried(self, memory: Memory) -> LabelMap:
        """The last map again; what has changed and waits is moved along with the picture."""
        last = memory.last
        assert last is not None
        waiting = memory.carry.waiting
        if not (memory.carry.options.follow and waiting.any()):
            return replace(last, decided=(0.0, 0.0, 0.0), carried=1.0)
        labels = memory.mover.moved(
            last.labels, self.out_stride, memory.luma, self._input[0], waiting
        )
        return self._mapped(labels, (0.0, 0.0, 0.0), 1.0)

    def _mapped(self, labels: U8, decided: tuple[float, float, float], carried: float) -> LabelMap:
        labels.setflags(write=False)
        counts = np.bincount(labels.reshape(-1), minlength=len(self.classes))
        height, width = labels.shape
        shares = (counts / labels.size).astype(np.float32)
        return LabelMap(width, height, labels, shares, decided, carried)


def find_cascade(name_or_folder: str | Path) -> Path:
    """Return the folder of a shipped cascade, or the one given.

    Raises:
        ModelError: there is no such folder.
    """
    shipped = Path(engines.zoo.__file__).parent / "cascade"
    folder = shipped if str(name_or_folder) == "cascade" else Path(name_or_folder)
    if not folder.is_dir():
        raise ModelError(
            f'{name_or_folder}: model must be "cascade" or a folder with {", ".join(FILES)}, '
            "got neither; check the name or the path"
        )
    return folder
