"""Decide which blocks of a video frame must be labelled anew and which keep their labels.

A block keeps its label while its pixels are those it was labelled from, up to a threshold. Knows no
network. One per camera; not thread-safe.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engines.cascade.picture import U8, Mask, Placement, changed_blocks

_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class CarryOptions:
    """How much change, and for how long, is let pass.

    threshold: mean difference of 8x8 pixels, in levels, from which on a block has changed.
    stale: share of blocks that may have changed and wait, so that one run serves several frames ...
    stale_s: ... but no longer than this, in media time.
    follow: the labels of blocks that wait move along with the picture.
    rho: of the frames that are labelled, if it is above the tuned one: the frames in between show
        their labels too, which is worth more care.
    refresh_s: everything is labelled anew after this media time.
    cut: share of changed blocks from which on the scene counts as another.
    gap_s: media time between two frames from which on nothing is carried.
    """

    threshold: float = 6.0
    stale: float = 0.35
    stale_s: float = 0.04
    follow: bool = True
    rho: float = 0.95
    refresh_s: float = 2.0
    cut: float = 0.6
    gap_s: float = 1.0

    def __post_init__(self) -> None:
        shares_ok = 0 <= self.stale < 1 and 0 < self.cut <= 1
        times_ok = self.stale_s >= 0 and self.refresh_s > 0 and self.gap_s > 0
        if not (shares_ok and times_ok and self.threshold >= 0 and 0 <= self.rho <= 1):
            raise ValueError(
                "carry: threshold and stale_s must be 0 or more, stale in [0, 1), cut in (0, 1], "
                f"refresh_s and gap_s above 0, rho in [0, 1], got {self}"
            )


class Carry:
    """The picture that each block was last labelled from.

    waiting: (rows, columns) of blocks that have changed since and were not chosen yet.
    """

    def __init__(self, options: CarryOptions, block_px: int) -> None:
        self.options = options
        self._block_px = block_px
        self._reference: U8 | None = None
        self._at: Placement | None = None
        self._last_ns = 0
        self._refreshed_ns = 0
        self._waiting_since_ns: int | None = None
        self.waiting: Mask = np.zeros((0, 0), bool)

    def reset(self) -> None:
        """Forget everything: the next frame is labelled as a whole."""
        self._reference = None

    def choose(
        self, planes: U8, at: Placement, media_time_ns: int, *, discontinuity: bool = False
    ) -> Mask:
        """Choose the blocks of this frame that must be labelled anew.

        Args:
            planes: (3, h, w) input of the network.
            at: the part of it that holds the frame.
            media_time_ns: of this frame.
            discontinuity: this frame does not follow the one before it.

        Returns:
            (rows, columns) of blocks; all, some, or none.
        """
        elapsed_ns = media_time_ns - self._last_ns
        self._last_ns = media_time_ns
        gap = discontinuity or not 0 <= elapsed_ns < self.options.gap_s * _S
        due = media_time_ns - self._refreshed_ns >= self.options.refresh_s * _S
        if self._reference is None or self._at != at or gap or due:
            return self._refresh(planes, at, media_time_ns)
        changed = changed_blocks(
            self._reference, planes, self._block_px, self.options.threshold
        ) & content_blocks(at, planes.shape, self._block_px)
        share = np.count_nonzero(changed) / np.count_nonzero(
            content_blocks(at, planes.shape, self._block_px)
        )
        if share >= self.options.cut:
            return self._refresh(planes, at, media_time_ns)
        if share > 0 and self._may_wait(share, media_time_ns):
            self.waiting = changed
            return np.zeros_like(changed)
        self.waiting = np.zeros_like(changed)
        self._waiting_since_ns = None
        _copy_blocks(planes, self._reference, changed, self._block_px)
        return changed

    def _refresh(self, planes: U8, at: Placement, media_time_ns: int) -> Mask:
        self._reference = planes.copy()
        self._at = at
        self._refreshed_ns = media_time_ns
        self._waiting_since_ns = None
        content = content_blocks(at, planes.shape, self._block_px)
        self.waiting = np.zeros_like(content)
        return content

    def _may_wait(self, share: float, now_ns: int) -> bool:
        if self._waiting_since_ns is None:
            self._waiting_since_ns = now_ns
        waited_ns = now_ns - self._waiting_since_ns
        return share <= self.options.stale and waited_ns < self.options.stale_s * _S


def content_blocks(at: Placement, shape: tuple[int, ...], block_px: int) -> Mask:
    """Mark the blocks of an input (3, h, w) that hold a part of the frame."""
    mask: Mask = np.zeros((shape[1] // block_px, shape[2] // block_px), bool)
    mask[: -(-at.height // block_px), : -(-at.width // block_px)] = True
    return mask


def _copy_blocks(source: U8, target: U8, blocks: Mask, block_px: int) -> None:
    pixels = blocks.repeat(block_px, axis=0).repeat(block_px, axis=1)
    np.copyto(target, source, where=pixels)
