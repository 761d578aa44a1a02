"""Counters of a stage in memory that the supervisor owns, so that they outlive the stage.

A stage advances a counter before it acts on it; its successor goes on from there. One writer each.
"""

from __future__ import annotations

import struct

from streamer.memory import SharedMemory, allocate

_COUNTER = struct.Struct("<q")
COUNTERS = 4096


def make_ledger(stage: str) -> int:
    """Allocate the counters of one stage, all zero; returns the file descriptor to keep open."""
    return allocate(f"ledger:{stage}", COUNTERS * _COUNTER.size)


class Ledger:
    """Counters by index, 0..COUNTERS-1; each an integer of 64 bits that survives a kill."""

    def __init__(self, owner_pid: int, fd: int) -> None:
        self._memory = SharedMemory(owner_pid, fd)

    def __getitem__(self, index: int) -> int:
        value: int = _COUNTER.unpack_from(self._memory.buffer, index * _COUNTER.size)[0]
        return value

    def __setitem__(self, index: int, value: int) -> None:
        _COUNTER.pack_into(self._memory.buffer, index * _COUNTER.size, value)
