"""Turn integers into bytes and back by integer tables alone; runtime, on the CPU.

Knows no network. Each symbol names its table by an index that the decoder has too. Symbols of one
table are coded together, in rising order of the table, by the range coder of `constriction`, whose
bytes are pinned to its minor version and to perfect=False; FORMAT.md says what it computes.
"""

from __future__ import annotations

from collections.abc import Sequence

import constriction
import numpy as np
from numpy.typing import NDArray

from engines.codec.errors import BitstreamError
from engines.codec.varint import VarintReader, append_signed, append_varint
from engines.errors import ModelError

I32 = NDArray[np.int32]
U32 = NDArray[np.uint32]

PRECISION_BITS = 24
TOTAL = 1 << PRECISION_BITS
VALUE_LIMIT = 1 << 20
"""Larger symbols come of damage, or of an encoder that has gone wrong."""


class SymbolTables:
    """Frequencies of -limit..limit and an escape, for each table index.

    An empty table means that its symbols are almost always zero: only the others are written.
    """

    def __init__(self, frequencies: Sequence[U32], *, where: str) -> None:
        """Check and take the tables of a model file.

        Args:
            frequencies: for each table an array of 2 * limit + 2 counts of at least 1 that sum to
                2^24, the last for the escape; or an empty one.
            where: name of the model, for errors.

        Raises:
            ModelError: a table is not of that form.
        """
        self.limits = np.array([max(len(f) // 2 - 1, 0) for f in frequencies], np.int32)
        self._models: list[object | None] = []
        for number, counts in enumerate(frequencies):
            if len(counts) == 0:
                self._models.append(None)
                continue
            if len(counts) < 2 or len(counts) % 2 or counts.min() < 1 or counts.sum() != TOTAL:
                raise ModelError(
                    f"{where}: table {number} must be an even number of counts >= 1 that sum to "
                    f"{TOTAL}, got {len(counts)} that sum to {int(counts.sum())}; export it again"
                )
            # Categorical gives every symbol one count and shares out the others by these weights:
            # whole numbers that sum to the number of the others stay as they are.
            weights = counts.astype(np.float64) - 1
            self._models.append(
                constriction.stream.model.Categorical(weights, lazy=False, perfect=False)
            )

    def __len__(self) -> int:
        return len(self._models)


class FrameWriter:
    """Collects the symbols of one frame; `finish` gives its bytes."""

    def __init__(self) -> None:
        self._coder = constriction.stream.queue.RangeEncoder()
        self._side = bytearray()

    def write(self, values: I32, index: NDArray[np.integer], tables: SymbolTables) -> None:
        """Code an array of symbols by the table that `index` names for each."""
        order, counts = _grouped(index, len(tables))
        flat = values.reshape(-1)[order].astype(np.int32)
        if len(flat) and int(np.abs(flat).max()) >= VALUE_LIMIT:
            raise ValueError(f"symbols must be below {VALUE_LIMIT}, got {np.abs(flat).max()}")
        start = 0
        for table, count in enumerate(counts):
            if count == 0:
                continue
            group = flat[start : start + count]
            start += count
            model = tables._models[table]
            if model is None:
                self._write_exceptions(group)
                continue
            limit = int(tables.limits[table])
            escaped = np.abs(group) > limit
            coded = np.where(escaped, 2 * limit + 1, group + limit).astype(np.int32)
            self._coder.encode(coded, model)
            for value in group[escaped].tolist():
                append_signed(self._side, value - limit - 1 if value > 0 else value + limit)

    def _write_exceptions(self, group: I32) -> None:
        positions = np.flatnonzero(group)
        append_varint(self._side, len(positions))
        last = -1
        for position in positions.tolist():
            append_varint(self._side, position - last - 1)
            append_signed(self._side, int(group[position]))
            last = position

    def finish(self) -> bytes:
        """Bytes of the frame: length of the side part, the side part, words of the range coder."""
        out = bytearray()
        append_varint(out, len(self._side))
        words = self._coder.get_compressed().astype("<u4").tobytes()
        return bytes(out + self._side + words)


class FrameReader:
    """Gives the symbols of one frame back, in the order in which they were written."""

    def __init__(self, payload: bytes, *, where: str) -> None:
        """Take the bytes of one frame apart.

        Raises:
            BitstreamError: their lengths contradict each other.
        """
        self._where = where
        head = VarintReader(payload, where=where)
        side_length = head.unsigned()
        words = head.position + side_length
        if words > len(payload) or (len(payload) - words) % 4:
            raise BitstreamError(
                f"{where}: side part of {side_length} bytes and whole words must fill "
                f"{len(payload)} bytes; the data is damaged, go on at the next intra frame"
            )
        self._side = VarintReader(payload[head.position : words], where=where)
        compressed = np.frombuffer(payload, "<u4", offset=words).astype(np.uint32)
        self._coder = constriction.stream.queue.RangeDecoder(compressed)

    def read(self, index: NDArray[np.integer], tables: SymbolTables) -> I32:
        """Decode one symbol for each table index, in the shape of `index`.

        Raises:
            BitstreamError: the bytes can't have been written with these tables.
        """
        order, counts = _grouped(index, len(tables))
        flat = np.empty(index.size, np.int32)
        start = 0
        for table, count in enumerate(counts):
            if count == 0:
                continue
            model = tables._models[table]
            if model is None:
                flat[start : start + count] = self._read_exceptions(int(count))
            else:
                flat[start : start + count] = self._read_group(model, int(count), tables, table)
            start += count
        values = np.empty(index.size, np.int32)
        values[order] = flat
        return values.reshape(index.shape)

    def _read_group(self, model: object, count: int, tables: SymbolTables, table: int) -> I32:
        limit = int(tables.limits[table])
        try:
            coded = self._coder.decode(model, count)
        except AssertionError as error:  # how constriction says that no symbol fits the data
            raise self._damaged(f"no symbol of table {table} fits") from error
        group = np.asarray(coded - limit, np.int32)
        for position in np.flatnonzero(group > limit).tolist():
            value = self._side.signed()
            group[position] = self._checked(value + limit + 1 if value >= 0 else value - limit)
        return group

    def _read_exceptions(self, count: int) -> I32:
        group = np.zeros(count, np.int32)
        number = self._side.unsigned()
        if number > count:
            raise self._damaged(f"{number} exceptions among {count} symbols")
        position = -1
        for _ in range(number):
            position += self._side.unsigned() + 1
            if position >= count:
                raise self._damaged(f"exception {position} among {count} symbols")
            group[position] = self._checked(self._side.signed())
        return group

    def _checked(self, value: int) -> int:
        if abs(value) >= VALUE_LIMIT:
            raise self._damaged(f"symbol {value} is not below {VALUE_LIMIT}")
        return value

    def _damaged(self, what: str) -> BitstreamError:
        return BitstreamError(
            f"{self._where}: {what}; the data is damaged, go on at the next intra frame"
        )


def _grouped(index: NDArray[np.integer], tables: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Positions in order of their table (stable), and how many each table has."""
    flat = index.reshape(-1)
    return np.argsort(flat, kind="stable"), np.bincount(flat, minlength=tables)
