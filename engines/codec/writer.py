"""Append records to a .lvc file so that a killed writer leaves all whole ones readable; runtime.

One writer per file; not thread-safe. Knows no codec.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from engines.codec.records import INDEX_MAGIC, INDEX_TAIL, Header, Record, RecordType
from engines.codec.varint import append_signed, append_varint


class LvcWriter:
    """A .lvc file that grows by whole records; `close` appends the index."""

    def __init__(self, path: str | Path, header: Header, *, overwrite: bool = True) -> None:
        """Create the file.

        Args:
            path: of the file; its folder must exist.
            header: what is true of the whole file.
            overwrite: False refuses to replace an existing file.

        Raises:
            OSError: it can't be created.
        """
        self.header = header
        mode = "wb" if overwrite else "xb"
        self._file = Path(path).open(mode, buffering=0)  # noqa: SIM115 - closed by close
        self._offset = 0
        self._before: Record | None = None
        self.frames = 0
        """That are in the file."""
        self._intras: list[tuple[int, int]] = []
        self._append(header.to_bytes())

    @property
    def size_bytes(self) -> int:
        """Bytes in the file."""
        return self._offset

    @property
    def last_pts(self) -> int:
        """Of the last frame in the file; 0 before the first."""
        return self._before.pts if self._before else 0

    def write_frame(
        self,
        payload: bytes,
        *,
        intra: bool,
        quality: int,
        pts: int,
        capture_ns: int,
        size: tuple[int, int] | None = None,
    ) -> None:
        """Append one frame.

        Args:
            payload: as a codec's compress returned it.
            intra: True if it was compressed without a state.
            quality: that of compress.
            pts: media time in units of the header's time base.
            capture_ns: wall clock, ns since 1970 UTC.
            size: width and height of an intra frame and those that follow; None for the header's.

        Raises:
            ValueError: the frame can't stand here, or a number is out of its range.
            OSError: it can't be written.
        """
        geometry = None
        if intra:
            sequence = 0
            if size != (self.header.width, self.header.height):
                geometry = size
        elif self._before is None:
            raise ValueError("the first frame of a file must be intra; compress it without a state")
        else:
            sequence = (self._before.sequence + 1) & 0xFF
        kind = RecordType.INTRA if intra else RecordType.INTER
        record = Record(kind, payload, quality, sequence, pts, capture_ns, geometry)
        data = record.to_bytes(self._before)
        if intra:
            self._intras.append((self._offset, pts))
        self._append(data)
        self._before = record
        self.frames += 1

    def write_metadata(self, data: bytes) -> None:
        """Append bytes that belong to the place in the file, such as an event in JSON."""
        self._append(Record(RecordType.METADATA, data).to_bytes(None))

    def close(self) -> None:
        """Append the index and close the file; safe to call twice."""
        if self._file.closed:
            return
        try:
            self._append(Record(RecordType.INDEX, self._index()).to_bytes(None))
        finally:
            self._file.close()

    def _index(self) -> bytes:
        out = bytearray()
        append_varint(out, len(self._intras))
        last_offset = last_pts = 0
        for offset, pts in self._intras:
            append_varint(out, offset - last_offset)
            append_signed(out, pts - last_pts)
            last_offset, last_pts = offset, pts
        return bytes(out + INDEX_TAIL.pack(self._offset, INDEX_MAGIC))

    def _append(self, data: bytes) -> None:
        view = memoryview(data)
        while view:  # one record is one write, unless the system takes less
            view = view[self._file.write(view) :]
        self._offset += len(data)

    def __enter__(self) -> LvcWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
