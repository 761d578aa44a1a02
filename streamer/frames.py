"""Frames in shared memory: a pool of slots that one process writes and others read without a copy.

The producer alone knows who holds which slot (leases live in its memory, not in the pool). A
generation number in the slot's header and in the descriptor catches every reader that comes late.
Knows no socket. FramePool is used by two threads of its process; PoolReader by one.
"""

from __future__ import annotations

import struct
import threading
from collections import deque
from collections.abc import Callable

from streamer.errors import StaleFrame
from streamer.memory import HEADER_BYTES, SharedMemory, slot_bytes
from streamer.messages import Frame, FrameInfo
from streamer.planes import Planes

_HEADER = struct.Struct("<8sQQIIQ")
_MAGIC = b"strmslt1"


class Lease:
    """One slot while somebody holds it; FramePool.acquire makes it, its caller is the first."""

    __slots__ = ("generation", "holders", "pixels", "planes", "pool", "slot")

    def __init__(
        self, pool: FramePool, slot: int, generation: int, pixels: memoryview, planes: Planes
    ) -> None:
        self.pool = pool
        self.slot = slot
        self.generation = generation
        self.pixels = pixels
        self.planes = planes
        self.holders = 1

    def publish(self, info: FrameInfo) -> Frame:
        """The picture is in its slot: make it readable, and return its descriptor."""
        self.pool.write_header(self.slot, self.generation, info.seq)
        return Frame(info, self.pool.pool_fd, self.slot, self.generation)

    def hold(self) -> None:
        """Count one more holder."""
        with self.pool.changed:
            assert self.holders >= 1
            self.holders += 1

    def release(self) -> None:
        """Count one holder less; the last one frees the slot."""
        with self.pool.changed:
            assert self.holders >= 1
            self.holders -= 1
            if self.holders == 0:
                self.pool.free.append(self.slot)
                self.pool.changed.notify()


class FramePool:
    """The producer's side: hands out free slots, takes them back when their last holder is done.

    Invariant: a slot is either in the free list or has exactly one Lease with holders >= 1.
    """

    def __init__(
        self, owner_pid: int, pool_fd: int, *, epoch: int, slots: int, width: int, height: int
    ) -> None:
        self.pool_fd = pool_fd
        self.epoch = epoch
        self.width, self.height = width, height
        self.slots = slots
        self._memory = SharedMemory(owner_pid, pool_fd)
        self._stride = slot_bytes(width, height)
        assert self._memory.size_bytes >= slots * self._stride
        size = Planes.size_bytes(width, height)
        starts = [slot * self._stride + HEADER_BYTES for slot in range(slots)]
        self._pixels = [self._memory.buffer[start : start + size] for start in starts]
        self._planes = [Planes.from_buffer(pixels, width, height) for pixels in self._pixels]
        self.free = deque(range(slots))
        self._generations = [0] * slots
        self.changed = threading.Condition()
        self.peak_used = 0

    @property
    def used(self) -> int:
        """Slots that somebody holds."""
        return self.slots - len(self.free)

    def acquire(self, *, wait: Callable[[], bool] | None = None) -> Lease | None:
        """Take a free slot; the caller holds it.

        Args:
            wait: asked while there is no free slot; False gives up. Without it, never waits.

        Returns:
            The lease, or None if no slot is free.
        """
        with self.changed:
            while not self.free:
                if wait is None or not wait():
                    return None
                self.changed.wait(0.05)
            slot = self.free.popleft()
            self.peak_used = max(self.peak_used, self.used)
        self._generations[slot] += 1
        self.write_header(slot, 0)
        return Lease(self, slot, self._generations[slot], self._pixels[slot], self._planes[slot])

    def write_header(self, slot: int, generation: int, seq: int = 0) -> None:
        """Say what the slot holds; generation 0 is "being written"."""
        _HEADER.pack_into(
            self._memory.buffer, slot * self._stride,
            _MAGIC, generation, self.epoch, self.width, self.height, seq,
        )  # fmt: skip


class _OpenPool:
    """One pool as a consumer sees it; the views of its slots are made once."""

    def __init__(self, memory: SharedMemory) -> None:
        self.memory = memory
        self._views: dict[int, Planes] = {}

    def planes(self, frame: Frame) -> Planes:
        """The planes in a frame's slot, whose header was checked."""
        view = self._views.get(frame.slot)
        if view is None:
            width, height = frame.info.width, frame.info.height
            offset = frame.slot * slot_bytes(width, height) + HEADER_BYTES
            view = Planes.from_buffer(self.memory.buffer, width, height, offset=offset)
            self._views[frame.slot] = view
        return view


class PoolReader:
    """The consumer's side: turns descriptors into planes; keeps a camera's newest pools open."""

    KEEP = 2

    def __init__(self, owner_pid: int) -> None:
        self._owner_pid = owner_pid
        self._pools: dict[str, dict[int, _OpenPool]] = {}

    def planes(self, frame: Frame, inline: memoryview | None = None) -> Planes:
        """View the pixels of a frame; valid until the frame is given back.

        Args:
            frame: the descriptor.
            inline: the pixels themselves where they travelled with the message.

        Raises:
            StaleFrame: the slot holds another frame by now, or its pool is gone.
        """
        info = frame.info
        if inline is not None:
            if len(inline) != Planes.size_bytes(info.width, info.height):
                raise StaleFrame(
                    f"{info.camera}: frame {info.seq} of {info.width}x{info.height} came with "
                    f"{len(inline)} bytes of pixels; dropped"
                )
            return Planes.from_buffer(inline, info.width, info.height)
        return self._checked_pool(frame).planes(frame)

    def check(self, frame: Frame, inline: memoryview | None = None) -> None:
        """Raise StaleFrame unless the slot still holds this very frame; inline pixels stay."""
        if inline is None:
            self._checked_pool(frame)

    def _checked_pool(self, frame: Frame) -> _OpenPool:
        info = frame.info
        start = frame.slot * slot_bytes(info.width, info.height)
        expected = (_MAGIC, frame.generation, info.epoch, info.width, info.height, info.seq)
        try:
            pool = self._open(frame)
            header = _HEADER.unpack_from(pool.memory.buffer, start)
        except (OSError, ValueError, struct.error) as error:  # the number may be another file's
            raise StaleFrame(
                f"{info.camera}: the pool of frame {info.seq} is gone: {error}"
            ) from error
        if header != expected:
            raise StaleFrame(
                f"{info.camera}: slot {frame.slot} was frame {info.seq} (generation "
                f"{frame.generation}), now holds generation {header[1]}; dropped"
            )
        return pool

    def _open(self, frame: Frame) -> _OpenPool:
        info = frame.info
        pools = self._pools.setdefault(info.camera, {})
        pool = pools.get(info.epoch)
        if pool is None:
            memory = SharedMemory(self._owner_pid, frame.pool_fd)
            pool = pools[info.epoch] = _OpenPool(memory)
            for old in sorted(pools)[: -self.KEEP]:
                del pools[old]
        return pool
