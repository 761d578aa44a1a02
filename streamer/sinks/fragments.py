"""Let a muxer's bytes reach a file one whole fragment at a time; runs wherever a file is written.

A killed writer leaves whole fragments, and a full disk is cut back to the last whole one. This is
about the death of a process; a power cut may cost what the kernel had not yet written.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path

from streamer.errors import SinkError

_REMEDIES = {
    errno.ENOENT: "make the folder first",
    errno.ENOTDIR: "a part of the path is a file; choose another folder",
    errno.EISDIR: "name a file in that folder",
    errno.EACCES: "choose a folder that this user may write to",
    errno.EPERM: "choose a folder that this user may write to",
    errno.EROFS: "choose a folder that is not mounted read-only",
    errno.EEXIST: "choose another name, or allow overwriting",
    errno.ENOSPC: "free some space or record to another disk",
    errno.EDQUOT: "raise the quota or record to another disk",
}


def sink_error(path: Path, cause: OSError, *, saved: str = "nothing was written") -> SinkError:
    """Say in one line which output failed, why, what is saved and what to do."""
    remedy = _REMEDIES.get(cause.errno or 0, "check the disk and its cable or network")
    error = SinkError(f"{path}: {os.strerror(cause.errno or 0)}; {saved}; {remedy}")
    error.errno = cause.errno
    return error


class FragmentFile:
    """A file object for a muxer: write collects, flush appends all of it in one system call."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self._pending = bytearray()
        self.closed = False
        self._fd = -1
        self._discarding = False

    def open(self, path: Path, *, overwrite: bool) -> None:
        """Create the file; what was written before goes into it with the first flush."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        self._fd = os.open(path, flags if overwrite else flags | os.O_EXCL, 0o644)
        with contextlib.suppress(OSError):  # not every network file system knows locks
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(self._fd, 0)

    def write(self, data: bytes) -> int:
        """Take bytes from the muxer."""
        if not self._discarding:
            self._pending += data
        return len(data)

    def flush(self) -> bool:
        """Append what was taken; True if there was something.

        Raises:
            OSError: the file was cut back to what it held before, and takes no more.
        """
        if not self._pending:
            return False
        rest = memoryview(self._pending)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError:
            self.discard()
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self.size_bytes)
            raise
        self.size_bytes += len(self._pending)
        self._pending = bytearray()
        return True

    def discard(self) -> None:
        """Throw away what was not flushed, and all that comes."""
        self._discarding = True
        self._pending = bytearray()

    def close(self) -> None:
        """Close the file; safe to call twice."""
        self.closed, fd, self._fd = True, self._fd, -1
        if fd >= 0:
            os.close(fd)


def is_finished(path: Path) -> bool:
    """Tell whether a fragmented MP4 has its index at the end, which is written last."""
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) < 16:
            return False
        file.seek(-16, os.SEEK_END)
        return file.read(8)[4:] == b"mfro"


def cut_half_fragment(path: Path) -> bool:
    """Cut a box off that a killed writer left half written; False if somebody still writes here.

    Raises:
        OSError: the file can't be read or written.
    """
    with path.open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        size, end, whole = file.seek(0, os.SEEK_END), 0, 0
        while end + 8 <= size:
            file.seek(end)
            header = file.read(8)
            length = int.from_bytes(header[:4], "big")
            if length < 8 or end + length > size:
                break
            end += length
            if header[4:] != b"moof":  # a fragment is moof and mdat; a moof alone is half of one
                whole = end
        if whole < size:
            file.truncate(whole)
    return True
