"""Header and records of a .lvc file as values, and as bytes; runtime. FORMAT.md is the law.

Knows no file and no codec.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum
from fractions import Fraction

from engines.codec.errors import BitstreamError
from engines.codec.varint import VarintReader, append_signed, append_varint

MAGIC = b"\x89LVC\r\n\x1a\n"
VERSION = 3
MARKER = b"\xa5\x4c"
CRC_BYTES = 4
MAX_SIDE_PX = 16384
MAX_PAYLOAD_BYTES = 1 << 24
MAX_HEAD_BYTES = 40
"""No record has more bytes before its payload."""
OWN_GEOMETRY = 1
"""In place of an intra frame's count, which is 0: its width and height follow."""
INDEX_TAIL = struct.Struct("<Q4s")
INDEX_MAGIC = b"LVCI"

_FIXED = struct.Struct("<32sIIIIBBBBHH")
_CODES = ("matrix", "primaries", "transfer")


class RecordType(IntEnum):
    """What a record holds."""

    INTRA = 0
    INTER = 1
    METADATA = 2
    INDEX = 3


def check_size(width: int, height: int) -> None:
    """Refuse a picture that no file can hold.

    Raises:
        ValueError: a side is not 1..MAX_SIDE_PX.
    """
    if not (1 <= width <= MAX_SIDE_PX and 1 <= height <= MAX_SIDE_PX):
        raise ValueError(f"width and height must be 1..{MAX_SIDE_PX}, got {width}x{height}")


@dataclass(frozen=True, slots=True)
class Header:
    """What is true of a whole file."""

    codec: str
    model_hash: bytes
    width: int
    """Of the pictures, luma samples; an intra frame can say another geometry."""
    height: int
    time_base: Fraction
    intra_period: int
    """Frames between two intra frames; 0 if there is no fixed number."""
    refresh_period: int
    """Frames, from the intra frame, between two refreshes of the memory; 0 for none."""
    matrix: int = 6
    """Colour codes of ITU-T H.273; 6 is BT.601 (NTSC), 1 is BT.709, 2 is unknown."""
    primaries: int = 2
    transfer: int = 2
    full_range: bool = False

    def __post_init__(self) -> None:
        name = self.codec.encode("ascii", "replace")
        if not 1 <= len(name) <= 32 or name.decode() != self.codec:
            raise ValueError(f"codec must be 1 to 32 ASCII characters, got {self.codec!r}")
        if len(self.model_hash) != 32:
            raise ValueError(f"model_hash must be 32 bytes, got {len(self.model_hash)}")
        check_size(self.width, self.height)
        if self.time_base <= 0 or max(self.time_base.as_integer_ratio()) >= 1 << 32:
            raise ValueError(f"time_base must be a positive 32-bit ratio, got {self.time_base}")
        for name_, limit in (("intra_period", 1 << 16), ("refresh_period", 1 << 16)):
            if not 0 <= getattr(self, name_) < limit:
                raise ValueError(f"{name_} must be 0..{limit - 1}, got {getattr(self, name_)}")
        for name_ in _CODES:
            if not 0 <= getattr(self, name_) <= 255:
                raise ValueError(f"{name_} must be 0..255, got {getattr(self, name_)}")

    def to_bytes(self) -> bytes:
        """The first bytes of a file."""
        name = self.codec.encode("ascii")
        body = MAGIC + bytes([VERSION, len(name)]) + name
        body += _FIXED.pack(
            self.model_hash,
            self.width,
            self.height,
            self.time_base.numerator,
            self.time_base.denominator,
            self.matrix,
            self.primaries,
            self.transfer,
            int(self.full_range),
            self.intra_period,
            self.refresh_period,
        )
        return body + struct.pack("<I", zlib.crc32(body))

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str) -> tuple[Header, int]:
        """Read a header; returns it and its length.

        Raises:
            BitstreamError: the bytes are not the start of a .lvc file of this version.
        """
        if not data.startswith(MAGIC):
            raise BitstreamError(f"{where}: not an .lvc file (it starts with {data[:8].hex(' ')})")
        if len(data) < 10 or data[8] != VERSION:
            version = data[8] if len(data) > 8 else 0
            remedy = "update this program" if version > VERSION else "decode it with what wrote it"
            raise BitstreamError(f"{where}: version must be {VERSION}, got {version}; {remedy}")
        body = 10 + data[9] + _FIXED.size
        crc = data[body : body + CRC_BYTES]
        if len(crc) < CRC_BYTES or crc != struct.pack("<I", zlib.crc32(data[:body])):
            raise BitstreamError(f"{where}: the header is damaged or cut off; nothing can be read")
        name = data[10 : 10 + data[9]].decode("ascii", "replace")
        model_hash, width, height, num, den, matrix, primaries, transfer, full, intra, refresh = (
            _FIXED.unpack_from(data, 10 + data[9])
        )
        if den == 0:
            raise BitstreamError(f"{where}: time base {num}/0; the file was written wrongly")
        try:
            header = cls(
                name, model_hash, width, height, Fraction(num, den), intra, refresh,
                matrix, primaries, transfer, bool(full),
            )  # fmt: skip
        except ValueError as error:
            raise BitstreamError(f"{where}: {error}; the file was written wrongly") from error
        return header, body + CRC_BYTES


HEADER_MAX_BYTES = 10 + 255 + _FIXED.size + CRC_BYTES


@dataclass(frozen=True, slots=True)
class Record:
    """One record; times are absolute here, and differences in the bytes of an inter frame."""

    type: RecordType
    payload: bytes
    quality: int = 0
    """Of a frame: 0..63."""
    sequence: int = 0
    """Of a frame: frames since the intra frame, modulo 256."""
    pts: int = 0
    capture_ns: int = 0
    """Wall clock, ns since 1970 UTC."""
    geometry: tuple[int, int] | None = None
    """Of an intra frame: width and height up to the next one, where they are not the header's."""

    @property
    def is_frame(self) -> bool:
        """True for what a codec decodes."""
        return self.type in (RecordType.INTRA, RecordType.INTER)

    def to_bytes(self, before: Record | None) -> bytes:
        """Bytes of this record; `before` is the frame in front of an inter frame."""
        if not 0 <= self.quality < 64:
            raise ValueError(f"quality must be 0..63, got {self.quality}")
        if len(self.payload) > MAX_PAYLOAD_BYTES:
            raise ValueError(
                f"payload must be at most {MAX_PAYLOAD_BYTES} bytes, got {len(self.payload)}"
            )
        if self.geometry is not None:
            check_size(*self.geometry)
        body = bytearray([self.type << 6 | self.quality])
        append_varint(body, len(self.payload))
        if self.is_frame:
            body.append(self.sequence & 0xFF if self.geometry is None else OWN_GEOMETRY)
            base = before if self.type is RecordType.INTER else None
            append_signed(body, self.pts - (base.pts if base else 0))
            append_signed(body, self.capture_ns - (base.capture_ns if base else 0))
        for side in self.geometry or ():
            append_varint(body, side)
        body += self.payload
        return bytes(MARKER + body + struct.pack("<I", zlib.crc32(body)))


@dataclass(frozen=True, slots=True)
class RecordHead:
    """What stands before the payload of a record; not yet checked by its CRC."""

    type: RecordType
    quality: int
    sequence: int
    pts: int
    capture_ns: int
    payload_start: int
    """Bytes from the marker to the payload."""
    payload_bytes: int
    geometry: tuple[int, int] | None

    @property
    def size(self) -> int:
        """Bytes from the marker to the end of the CRC."""
        return self.payload_start + self.payload_bytes + CRC_BYTES

    @classmethod
    def parse(cls, data: bytes, *, where: str) -> RecordHead:
        """Read what stands before a payload; times of inter frames are still differences.

        Raises:
            BitstreamError: there is no record here.
        """
        if data[:2] != MARKER or len(data) < 3:
            raise BitstreamError(f"{where}: no record here, but {data[:2].hex(' ') or 'the end'}")
        kind = RecordType(data[2] >> 6)
        numbers = VarintReader(data, where=where)
        numbers.position = 3
        length = numbers.unsigned()
        if length > MAX_PAYLOAD_BYTES:
            raise BitstreamError(f"{where}: a payload of {length} bytes is not possible")
        sequence = pts = capture_ns = 0
        geometry = None
        if kind in (RecordType.INTRA, RecordType.INTER):
            if numbers.position >= len(data):
                raise BitstreamError(f"{where}: the file ends inside a record")
            sequence = data[numbers.position]
            numbers.position += 1
            pts, capture_ns = numbers.signed(), numbers.signed()
            if kind is RecordType.INTRA and sequence == OWN_GEOMETRY:
                sequence, geometry = 0, (numbers.unsigned(), numbers.unsigned())
                try:
                    check_size(*geometry)
                except ValueError as error:
                    raise BitstreamError(f"{where}: {error}") from error
        quality, start = data[2] & 63, numbers.position
        return cls(kind, quality, sequence, pts, capture_ns, start, length, geometry)

    def complete(self, data: bytes, before: Record | None, *, where: str) -> Record:
        """Check the CRC of a whole record and give it with absolute times.

        Raises:
            BitstreamError: a byte of it is wrong, or the frame before it is missing.
        """
        body, crc = data[2:-CRC_BYTES], data[-CRC_BYTES:]
        if len(data) != self.size or crc != struct.pack("<I", zlib.crc32(body)):
            raise BitstreamError(f"{where}: the record does not agree with its CRC")
        payload = data[self.payload_start : -CRC_BYTES]
        if self.type is not RecordType.INTER:
            return Record(
                self.type, payload, self.quality, self.sequence,
                self.pts, self.capture_ns, self.geometry,
            )  # fmt: skip
        if before is None or self.sequence != (before.sequence + 1) & 0xFF:
            raise BitstreamError(f"{where}: the frame before this inter frame is missing")
        return Record(
            self.type, payload, self.quality, self.sequence,
            before.pts + self.pts, before.capture_ns + self.capture_ns,
        )  # fmt: skip
