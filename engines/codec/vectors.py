"""Write the vectors of a frame as symbols, and read them; runtime. FORMAT.md is the law."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engines.codec.entropy import FrameReader, FrameWriter, SymbolTables
from engines.codec.errors import BitstreamError
from engines.codec.motion import FARTHEST
from engines.codec.scales import level_of

I32 = NDArray[np.int32]

EXCEPTION_BITS = 16
"""Of a symbol that is not zero in table 0, which takes none for the others."""


def write_vectors(writer: FrameWriter, vectors: I32, before: I32, tables: SymbolTables) -> None:
    """Code vectors (rows, columns, 2) by their neighbours, or by those of the frame before."""
    still, moved = _differences(vectors), _differences(vectors - before)
    chosen, as_before = (moved, 1) if np.abs(moved).sum() < np.abs(still).sum() else (still, 0)
    fields = [chosen[..., axis] for axis in (0, 1)]
    levels = [_level(field) for field in fields]
    writer.write(np.array([as_before, *levels], np.int32), np.zeros(3, np.uint8), tables)
    for field, level in zip(fields, levels, strict=True):
        writer.write(field, np.full(field.shape, level, np.uint8), tables)


def read_vectors(reader: FrameReader, before: I32, tables: SymbolTables, *, where: str) -> I32:
    """The vectors that were written, in the shape of those of the frame before.

    Raises:
        BitstreamError: the bytes are damaged.
    """
    as_before, *levels = reader.read(np.zeros(3, np.uint8), tables).tolist()
    if as_before not in (0, 1) or not all(0 <= level < len(tables) for level in levels):
        raise BitstreamError(
            f"{where}: vectors by rule {as_before} and tables {levels}; the data is damaged, go on "
            "at the next intra frame"
        )
    shape = before.shape[:2]
    fields = [reader.read(np.full(shape, level, np.uint8), tables) for level in levels]
    vectors = np.stack(fields, -1).astype(np.int64)
    vectors[:, 0] = vectors[:, 0].cumsum(0)
    vectors = vectors.cumsum(1) + as_before * before
    return np.asarray(vectors.clip(-FARTHEST, FARTHEST), np.int32)


def _differences(vectors: I32) -> I32:
    """From each block to the one on its left; in the first column to the one above."""
    differences = np.diff(vectors, axis=1, prepend=0)
    differences[1:, 0] -= vectors[:-1, 0]
    return differences


def _level(field: I32) -> int:
    """The table that takes the fewest bits, by the mean of what it codes."""
    mean = float(np.abs(field).mean())
    level = level_of(mean)
    laplace_bits = field.size * np.log2(2 * np.e * max(mean, 0.2))
    return 0 if EXCEPTION_BITS * np.count_nonzero(field) < laplace_bits else max(level, 1)
