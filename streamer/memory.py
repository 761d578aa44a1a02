"""Shared memory that its supervisor owns and the kernel frees; knows no picture.

Imports next to nothing, so that the supervisor stays small and starts at once.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from streamer.errors import OutOfMemory

HEADER_BYTES = 64
"""In front of the planes of each slot."""
_PAGE = 4096


def picture_bytes(width: int, height: int) -> int:
    """Bytes of one dense picture in planar YUV 4:2:0."""
    return width * height + 2 * ((width + 1) // 2) * ((height + 1) // 2)


def slot_bytes(width: int, height: int) -> int:
    """Bytes of one slot: header and dense planes, rounded up to whole pages."""
    return -(-(HEADER_BYTES + picture_bytes(width, height)) // _PAGE) * _PAGE


def memory_available_bytes(
    proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")
) -> int:
    """What this process can still get: MemAvailable, or less where a control group limits us."""
    fields = (proc / "meminfo").read_text().split()
    available: float = int(fields[fields.index("MemAvailable:") + 1]) * 1024
    for line in (proc / "self" / "cgroup").read_text().splitlines():
        _, controllers, place = line.split(":", 2)
        if not controllers:  # version 2
            top, names = groups, ("memory.max", "memory.current", "inactive_file")
        elif controllers == "memory":  # version 1
            top = groups / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        group = top / place.strip("/")
        for level in (group, *group.parents):  # every level may limit
            available = min(available, _room_bytes(level, *names))
    return int(available)


def _room_bytes(group: Path, limit: str, used: str, cache: str) -> float:
    try:
        text = (group / limit).read_text().strip()
        if text == "max":
            return float("inf")
        in_use = int((group / used).read_text())
        counts = group / "memory.stat"
        if counts.exists():  # recordings fill the cache of files, which gives way at once
            in_use -= int(dict(map(str.split, counts.read_text().splitlines())).get(cache, 0))
        return max(0, int(text) - in_use)
    except OSError:
        return float("inf")  # this level sets no limit


def allocate(name: str, size_bytes: int, *, reserve_bytes: int = 64 << 20) -> int:
    """Make really allocated anonymous shared memory.

    Args:
        name: shown in /proc/PID/fd, for people.
        size_bytes: allocated now, not at first touch.
        reserve_bytes: left over for everyone else.

    Returns:
        A file descriptor; others open it as /proc/PID/fd/N. The kernel frees the memory when the
        last process that holds it is gone, however it went.

    Raises:
        OutOfMemory: more than the machine or the control group can give; a memfd would not fail
            but get the process killed.
    """
    available = memory_available_bytes()
    if size_bytes + reserve_bytes > available:
        raise OutOfMemory(
            f"{name}: {size_bytes / 1e6:.0f} MB of shared memory are needed, "
            f"{max(0, available - reserve_bytes) / 1e6:.0f} MB are available; "
            "use fewer or smaller cameras, a smaller encode.join_frames, or raise the memory limit"
        )
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        os.posix_fallocate(fd, 0, size_bytes)
    except OSError as error:
        os.close(fd)
        raise OutOfMemory(
            f"{name}: {size_bytes / 1e6:.0f} MB refused by the kernel: {error}"
        ) from error
    return fd


class SharedMemory:
    """A mapping of memory that another process owns, opened by number; views keep it alive."""

    def __init__(self, owner_pid: int, fd: int) -> None:
        handle = os.open(f"/proc/{owner_pid}/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
        try:
            self.size_bytes = os.fstat(handle).st_size
            self.buffer = memoryview(mmap.mmap(handle, self.size_bytes))
        finally:
            os.close(handle)
