"""Whole numbers as few bytes: seven bits a byte, the lowest first; signs by zigzag. Numpy-free."""

from __future__ import annotations

from engines.codec.errors import BitstreamError

MAX_BITS = 63


def append_varint(out: bytearray, value: int) -> None:
    """Append a number of 0 or more."""
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def append_signed(out: bytearray, value: int) -> None:
    """Append a number of either sign: 0, -1, 1, -2, ... become 0, 1, 2, 3, ..."""
    append_varint(out, 2 * value if value >= 0 else -2 * value - 1)


class VarintReader:
    """Reads numbers one after the other from bytes of a peer."""

    def __init__(self, data: bytes, *, where: str) -> None:
        self._data = data
        self._where = where
        self.position = 0

    def unsigned(self) -> int:
        """Read a number of 0 or more.

        Raises:
            BitstreamError: the bytes end inside the number, or it has more than 63 bits.
        """
        value = shift = 0
        while True:
            if self.position >= len(self._data) or shift > MAX_BITS - 7:
                raise BitstreamError(
                    f"{self._where}: a number at byte {self.position} has no end; "
                    "the data is damaged, go on at the next intra frame"
                )
            byte = self._data[self.position]
            self.position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def signed(self) -> int:
        """Read a number of either sign."""
        value = self.unsigned()
        return -(value + 1) // 2 if value & 1 else value // 2
