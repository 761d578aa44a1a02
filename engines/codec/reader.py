"""Read the records of a .lvc file, whole, cut off or damaged; runtime.

Damage costs the frames up to the next intra frame and is noted in `damages`. Nothing is allocated
by what a damaged length says: it is compared with what is left of the file first. Knows no codec.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from engines.codec.errors import BitstreamError
from engines.codec.records import (
    CRC_BYTES,
    HEADER_MAX_BYTES,
    INDEX_MAGIC,
    INDEX_TAIL,
    MARKER,
    MAX_HEAD_BYTES,
    Header,
    Record,
    RecordHead,
    RecordType,
)
from engines.codec.varint import VarintReader

logger = logging.getLogger(__name__)

SCAN_BYTES = 1 << 16
INTRA_START = tuple(MARKER + bytes([quality]) for quality in range(64))


@dataclass(frozen=True, slots=True)
class Damage:
    """A part of a file that could not be read."""

    offset: int
    """Where it begins."""
    lost_bytes: int
    """Up to the next intra frame, or to the end of the file."""
    reason: str


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One intra frame, where decoding can begin."""

    offset: int
    pts: int


class LvcReader:
    """A .lvc file; iterate over `records` from the start or from where `seek` went."""

    def __init__(self, path: str | Path) -> None:
        """Open a file and read its header.

        Raises:
            OSError: it can't be opened.
            BitstreamError: it is no .lvc file of this version.
        """
        self._path = Path(path)
        self._file = self._path.open("rb")
        try:
            self._size = self._file.seek(0, 2)
            self.header, self._start = Header.from_bytes(
                self._read(0, HEADER_MAX_BYTES), where=str(path)
            )
        except BitstreamError:
            self._file.close()
            raise
        self._offset = self._start
        self.damages: list[Damage] = []

    def records(self) -> Iterator[Record]:
        """Frames and metadata in order; the index is left out."""
        for _, record in self._walk(self._offset):
            if record.type is not RecordType.INDEX:
                yield record

    def seek(self, pts: int) -> IndexEntry:
        """Let `records` begin at the last intra frame at or before a time, else at the first.

        Raises:
            BitstreamError: no intra frame of the file can be read.
        """
        entries = self.index()
        if not entries:
            raise BitstreamError(f"{self._path}: no intra frame can be read; nothing to seek to")
        entry = max((e for e in entries if e.pts <= pts), key=lambda e: e.pts, default=entries[0])
        self._offset = entry.offset
        return entry

    def index(self) -> list[IndexEntry]:
        """All intra frames: from the index of the file, or by reading through it without one."""
        stored = self._stored_index()
        if stored is not None:
            return stored
        damages = list(self.damages)
        entries = [
            IndexEntry(offset, record.pts)
            for offset, record in self._walk(self._start)
            if record.type is RecordType.INTRA
        ]
        self.damages = damages  # they are noted when the frames are read
        return entries

    @property
    def has_index(self) -> bool:
        """True if the file was closed by its writer."""
        return self._stored_index() is not None

    def _stored_index(self) -> list[IndexEntry] | None:
        tail = self._read(max(0, self._size - INDEX_TAIL.size - CRC_BYTES), INDEX_TAIL.size)
        if len(tail) < INDEX_TAIL.size or not tail.endswith(INDEX_MAGIC):
            return None
        offset, _ = INDEX_TAIL.unpack(tail)
        if not self._start <= offset < self._size:
            return None
        try:
            record = self._record_at(offset, None)
            numbers = VarintReader(record.payload[: -INDEX_TAIL.size], where=str(self._path))
            if record.type is not RecordType.INDEX:
                return None
            entries = []
            place = pts = 0
            for _ in range(numbers.unsigned()):
                place, pts = place + numbers.unsigned(), pts + numbers.signed()
                entries.append(IndexEntry(place, pts))
        except BitstreamError:
            return None  # the file itself is still good
        return entries

    def _walk(self, offset: int) -> Iterator[tuple[int, Record]]:
        before: Record | None = None
        while offset < self._size:
            try:
                record = self._record_at(offset, before)
            except BitstreamError as error:
                following = self._next_intra(offset + 1)
                self._note(Damage(offset, following - offset, str(error)))
                offset, before = following, None
                continue
            yield offset, record
            if record.is_frame:
                before = record
            offset += self._size_of(offset)

    def _record_at(self, offset: int, before: Record | None) -> Record:
        where = f"{self._path}: byte {offset}"
        head = RecordHead.parse(self._read(offset, MAX_HEAD_BYTES), where=where)
        if offset + head.size > self._size:
            raise BitstreamError(f"{where}: the file ends inside a record")
        return head.complete(self._read(offset, head.size), before, where=where)

    def _size_of(self, offset: int) -> int:
        return RecordHead.parse(self._read(offset, MAX_HEAD_BYTES), where=str(self._path)).size

    def _next_intra(self, offset: int) -> int:
        """Where the next whole intra frame begins, or the end of the file."""
        while offset < self._size:
            chunk = self._read(offset, SCAN_BYTES)
            place = chunk.find(MARKER)
            while place >= 0:
                if chunk.startswith(INTRA_START, place) and self._is_whole(offset + place):
                    return offset + place
                place = chunk.find(MARKER, place + 1)
            if len(chunk) < SCAN_BYTES:
                break
            offset += len(chunk) - 2  # a start may lie across two chunks
        return self._size

    def _is_whole(self, offset: int) -> bool:
        try:
            self._record_at(offset, None)
        except BitstreamError:
            return False
        return True

    def _note(self, damage: Damage) -> None:
        self.damages.append(damage)
        logger.warning("%s; %d bytes are lost", damage.reason, damage.lost_bytes)

    def _read(self, offset: int, count: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(min(count, self._size - offset))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> LvcReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
