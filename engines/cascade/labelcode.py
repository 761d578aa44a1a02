"""Code maps of labels into a few hundred bytes for the wire, and back; numpy and zlib alone.

Each n-th pixel of a map is kept, each row is stored as its difference from the one above, as PNG
does, and all is deflated. Knows no network. Decoding trusts nothing: what comes from elsewhere may
be damaged or hostile.

    b"LM" | version u8 | width u16 | height u16, little-endian | deflated rows
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

U8 = NDArray[np.uint8]

MAGIC, VERSION = b"LM", 1
LARGEST_PX = 4096
"""Longest side of a map; what claims to be longer is refused before anything is allocated."""

_HEADER = struct.Struct("<2sBHH")
_LEVEL = 6


def encode(labels: U8, *, longest_px: int = 160) -> bytes:
    """Code a map.

    Args:
        labels: (h, w) uint8.
        longest_px: each n-th pixel of each n-th row is kept, so that no side is longer; up to
            LARGEST_PX.

    Raises:
        ValueError: not a map of labels, or longest_px is out of range.
    """
    if labels.ndim != 2 or labels.dtype != np.uint8 or 0 in labels.shape:
        raise ValueError(
            f"labels must be (h, w) uint8 and not empty, got {labels.shape} {labels.dtype}"
        )
    if not 1 <= longest_px <= LARGEST_PX:
        raise ValueError(f"longest_px must be in 1..{LARGEST_PX}, got {longest_px}")
    step = -(-max(labels.shape) // longest_px)
    kept = labels[_middles(labels.shape[0], step)][:, _middles(labels.shape[1], step)]
    rows = kept.copy()
    rows[1:] ^= kept[:-1]
    height, width = rows.shape
    return _HEADER.pack(MAGIC, VERSION, width, height) + zlib.compress(rows.tobytes(), _LEVEL)


def decode(code: bytes, *, classes: int = 256) -> U8:
    """Decode a map of labels.

    Args:
        code: of `encode`.
        classes: labels must be below.

    Returns:
        (h, w) uint8.

    Raises:
        ValueError: the code is damaged, cut short, of another version, or has other labels.
    """
    if len(code) < _HEADER.size:
        raise ValueError(f"label map: code must have {_HEADER.size} bytes or more, got {len(code)}")
    magic, version, width, height = _HEADER.unpack_from(code)
    if (magic, version) != (MAGIC, VERSION):
        raise ValueError(
            f"label map: code must begin with {MAGIC!r} and version {VERSION}, got {magic!r} and "
            f"{version}; is the sender newer?"
        )
    if not (1 <= width <= LARGEST_PX and 1 <= height <= LARGEST_PX):
        raise ValueError(f"label map: sides must be in 1..{LARGEST_PX}, got {width}x{height}")
    inflater = zlib.decompressobj()
    try:
        rows = inflater.decompress(code[_HEADER.size :], width * height + 1)
    except zlib.error as error:
        raise ValueError(f"label map: {width}x{height} labels are damaged: {error}") from error
    if len(rows) != width * height or not inflater.eof or inflater.unused_data:
        raise ValueError(
            f"label map: code must hold {width}x{height} labels and nothing else, got "
            f"{len(rows)} labels{'' if inflater.eof else ' and no end'}; send it again"
        )
    labels: U8 = np.bitwise_xor.accumulate(
        np.frombuffer(rows, np.uint8).reshape(height, width), axis=0
    )
    if labels.max() >= classes:
        raise ValueError(
            f"label map: labels must be below {classes}, got {labels.max()}; are both ends on the "
            "same model?"
        )
    return labels


def _middles(length: int, step: int) -> NDArray[np.intp]:
    """Indices of the middles of steps; one at the least."""
    return np.arange(min(step // 2, (length - 1) // 2), length, step)
