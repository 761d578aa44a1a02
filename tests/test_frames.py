"""Frames in shared memory: leases, stale readers, and memory that is really freed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from samples import info_of

from streamer import memory
from streamer.errors import OutOfMemory, StaleFrame
from streamer.frames import FramePool, Lease, PoolReader
from streamer.memory import allocate, memory_available_bytes, slot_bytes
from streamer.messages import Frame
from streamer.planes import Planes

PID = os.getpid()
ROOT = Path(__file__).resolve().parent.parent


class Pools:
    """Plays the supervisor: makes pools, and knows which of its descriptors are pools."""

    def __init__(self) -> None:
        self._fds: list[int] = []

    def make(self, width: int, height: int, *, slots: int = 2, epoch: int = 1) -> FramePool:
        fd = allocate("pool:test", slots * slot_bytes(width, height))
        self._fds.append(fd)
        return FramePool(PID, fd, epoch=epoch, slots=slots, width=width, height=height)

    def free(self, pool: FramePool) -> None:
        self._fds.remove(pool.pool_fd)
        os.close(pool.pool_fd)

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)


@pytest.fixture
def pools() -> Iterator[Pools]:
    """Pools that are gone after the test, mappings included."""
    pools = Pools()
    yield pools
    pools.close()
    assert memfds() == 0


def links(process: Path) -> list[str]:
    """What the descriptors of a process are; those behind mappings are among them."""
    found = []
    for entry in (process / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of this very listing
            found.append(str(entry.readlink()))
    return found


def memfds() -> int:
    """Pools that this process has open."""
    return sum("memfd:pool" in link for link in links(Path("/proc/self")))


def holders(name: str) -> set[int]:
    """Processes that have a pool of this name mapped or open."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it is gone, or not ours
            if any(name in text for text in [*links(process), (process / "maps").read_text()]):
                found.add(int(process.name))
    return found


def write(pool: FramePool, seq: int, *, camera: str = "gate") -> tuple[Frame, Lease]:
    """Paint a frame with its number into a free slot."""
    lease = pool.acquire()
    assert lease is not None
    lease.planes.fill(seq % 256, 100, 200)
    info = info_of(seq, camera=camera, epoch=pool.epoch, width=pool.width, height=pool.height)
    return lease.publish(info), lease


# Reading what was written.


@pytest.mark.parametrize(("width", "height"), [(1, 1), (2, 2), (3, 5), (34, 18), (641, 361)])
def test_planes_of_any_size_come_back(pools: Pools, width: int, height: int) -> None:
    pool = pools.make(width, height, slots=3)
    reader = PoolReader(PID)
    generator = np.random.default_rng(width)
    written = []
    for seq in range(3):
        frame, lease = write(pool, seq)
        for plane in (lease.planes.y, lease.planes.u, lease.planes.v):
            plane[:] = generator.integers(0, 256, plane.shape, np.uint8)
        copy = Planes.empty(width, height)
        copy.copy_from(lease.planes)
        written.append((frame, copy))
    for frame, copy in written:
        planes = reader.planes(frame)
        np.testing.assert_array_equal(planes.y, copy.y)
        np.testing.assert_array_equal(planes.u, copy.u)
        np.testing.assert_array_equal(planes.v, copy.v)


def test_a_slot_is_whole_pages_and_holds_header_and_planes() -> None:
    assert slot_bytes(1, 1) == 4096
    assert slot_bytes(1920, 1080) % 4096 == 0
    assert 0 <= slot_bytes(1920, 1080) - Planes.size_bytes(1920, 1080) - 64 < 4096
    assert Planes.size_bytes(3, 5) == 15 + 2 * 2 * 3


def test_another_process_reads_through_proc(pools: Pools) -> None:
    pool = pools.make(35, 19)
    frame, _lease = write(pool, 7)
    reader = (
        "import sys, msgspec; from streamer.frames import PoolReader; "
        "from streamer.messages import Frame; "
        "frame = msgspec.msgpack.decode(bytes.fromhex(sys.argv[2]), type=Frame); "
        "planes = PoolReader(int(sys.argv[1])).planes(frame); "
        "print(planes.y.min(), planes.y.max(), planes.v.max())"
    )
    packed = msgspec.msgpack.encode(frame).hex()
    done = subprocess.run(
        [sys.executable, "-c", reader, str(PID), packed],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.split() == ["7", "7", "200"]


def test_inline_pixels_need_no_pool() -> None:
    frame = Frame(info_of(0, width=3, height=5), pool_fd=-1, slot=0, generation=1)
    pixels = memoryview(bytes(range(27)))
    reader = PoolReader(PID)
    planes = reader.planes(frame, pixels)
    assert planes.y.ravel().tolist() == list(range(15))
    assert planes.v.ravel().tolist() == list(range(21, 27))
    reader.check(frame, pixels)
    with pytest.raises(StaleFrame, match="gate: frame 0 of 3x5 came with 26 bytes of pixels; drop"):
        reader.planes(frame, pixels[:26])
    with pytest.raises(StaleFrame, match=r"gate: the pool of frame 0 is gone: .*fd/-1"):
        reader.planes(frame)


# Stale readers.


def test_a_slot_that_was_given_away_is_stale(pools: Pools) -> None:
    pool = pools.make(34, 18, slots=1)
    reader = PoolReader(PID)
    old, lease = write(pool, 0)
    reader.check(old)
    lease.release()
    reader.check(old)  # nobody has written over it yet
    lease = pool.acquire()
    assert lease is not None
    with pytest.raises(StaleFrame, match=r"gate: slot 0 was frame 0 \(generation 1\), now holds g"):
        reader.planes(old)  # being written
    new = lease.publish(info_of(1))
    assert new.generation == 2
    with pytest.raises(StaleFrame, match="now holds generation 2; dropped"):
        reader.check(old)
    assert reader.planes(new).width == 34


def test_a_frame_is_not_readable_before_it_is_published(pools: Pools) -> None:
    pool = pools.make(34, 18)
    lease = pool.acquire()
    assert lease is not None
    guess = Frame(info_of(0), pool.pool_fd, lease.slot, lease.generation)
    with pytest.raises(StaleFrame, match="now holds generation 0"):
        PoolReader(PID).planes(guess)


def test_each_part_of_a_descriptor_is_checked(pools: Pools) -> None:
    frame, _lease = write(pools.make(34, 18), 5)
    other = pools.make(34, 18, epoch=2)
    reader = PoolReader(PID)
    wrong = [
        msgspec.structs.replace(frame, generation=2),
        msgspec.structs.replace(frame, generation=0),
        msgspec.structs.replace(frame, slot=1),
        msgspec.structs.replace(frame, slot=10**9),
        msgspec.structs.replace(frame, info=info_of(6)),
        msgspec.structs.replace(frame, info=info_of(5, epoch=2)),
        msgspec.structs.replace(frame, info=info_of(5, width=18, height=34)),
        msgspec.structs.replace(frame, info=info_of(5, camera="door"), pool_fd=other.pool_fd),
    ]
    for descriptor in wrong:
        with pytest.raises(StaleFrame, match=f"{descriptor.info.camera}: (slot|the pool of frame)"):
            reader.planes(descriptor)
    assert reader.planes(frame).y[0, 0] == 5


def test_a_pool_that_was_replaced_is_stale_for_those_who_come_late(pools: Pools) -> None:
    first = pools.make(34, 18, epoch=1)
    frame, _lease = write(first, 0)
    knows, comes_late = PoolReader(PID), PoolReader(PID)
    knows.check(frame)
    pools.free(first)
    number = first.pool_fd
    second = pools.make(34, 18, epoch=2)
    assert second.pool_fd == number  # the kernel gives the number out again
    write(second, 0)
    knows.check(frame)  # its mapping keeps the old memory alive
    with pytest.raises(StaleFrame, match="slot 0 was frame 0"):
        comes_late.check(frame)


def test_a_descriptor_number_that_is_no_pool_any_more_is_stale(pools: Pools) -> None:
    pool = pools.make(34, 18)
    frame, _lease = write(pool, 0)
    pools.free(pool)
    with pytest.raises(StaleFrame, match=r"the pool of frame 0 is gone: .*No such file"):
        PoolReader(PID).check(frame)
    reading, writing = os.pipe()
    assert reading == pool.pool_fd
    with pytest.raises(StaleFrame, match="the pool of frame 0 is gone"):
        PoolReader(PID).check(frame)
    os.close(reading)
    os.close(writing)
    empty = os.memfd_create("other")
    assert empty == pool.pool_fd
    with pytest.raises(StaleFrame, match="the pool of frame 0 is gone: cannot mmap an empty file"):
        PoolReader(PID).check(frame)
    os.close(empty)


def test_pools_of_two_cameras_never_mix(pools: Pools) -> None:
    gate, door = pools.make(34, 18, epoch=1), pools.make(34, 18, epoch=2)
    reader = PoolReader(PID)
    frames = [
        (write(pool, seq, camera=camera)[0], seq)
        for camera, pool, seq in (("gate", gate, 3), ("door", door, 4))
    ]
    for frame, seq in frames:
        assert reader.planes(frame).y[0, 0] == seq
    assert (gate.used, door.used) == (1, 1)
    swapped = msgspec.structs.replace(frames[0][0], pool_fd=door.pool_fd)
    with pytest.raises(StaleFrame, match="gate: slot 0 was frame 3"):
        PoolReader(PID).check(swapped)


def test_a_reader_keeps_the_newest_pools_of_each_camera(pools: Pools) -> None:
    reader = PoolReader(PID)
    made = [pools.make(34, 18, epoch=epoch) for epoch in range(1, 5)]
    frames = [write(pool, pool.epoch)[0] for pool in made]
    door = write(pools.make(34, 18, epoch=9), 9, camera="door")[0]
    for frame in (*frames, door):
        reader.check(frame)
    for pool in made:
        pools.free(pool)
    for frame in (*frames[-2:], door):
        reader.check(frame)
    for frame in frames[:-2]:
        with pytest.raises(StaleFrame, match=f"the pool of frame {frame.info.seq} is gone"):
            reader.check(frame)
    for frame in frames[-2:]:
        reader.check(frame)  # asking for old ones pushed no new one out


def test_an_old_pool_can_still_be_asked_for(pools: Pools) -> None:
    reader = PoolReader(PID)
    frames = [write(pools.make(34, 18, epoch=epoch), epoch)[0] for epoch in (1, 2, 3)]
    for frame in (frames[1], frames[2], frames[0], frames[0]):
        assert reader.planes(frame).y[0, 0] == frame.info.seq


# Leases.


def test_a_slot_is_free_when_its_last_holder_is_done(pools: Pools) -> None:
    pool = pools.make(34, 18, slots=2)
    lease = pool.acquire()
    assert lease is not None
    lease.hold()
    lease.hold()
    for used in (1, 1, 0):
        lease.release()
        assert pool.used == used
    with pytest.raises(AssertionError, match=r"^$"):
        lease.release()
    with pytest.raises(AssertionError, match=r"^$"):
        lease.hold()
    assert sorted(pool.free) == [0, 1]
    assert pool.peak_used == 1


def test_slots_are_used_in_turn(pools: Pools) -> None:
    """A reader that comes late finds its frame for as long as possible."""
    pool = pools.make(34, 18, slots=3)
    slots = []
    for _ in range(6):
        lease = pool.acquire()
        assert lease is not None
        slots.append(lease.slot)
        lease.release()
    assert slots == [0, 1, 2, 0, 1, 2]


def test_acquire_waits_only_if_asked_to(pools: Pools) -> None:
    pool = pools.make(34, 18, slots=1)
    held = pool.acquire()
    assert held is not None
    assert pool.acquire() is None
    asked: list[bool] = []
    assert pool.acquire(wait=lambda: asked.append(True) or len(asked) < 3) is None
    assert len(asked) == 3
    held.release()
    assert pool.acquire(wait=lambda: pytest.fail("there was a free slot")) is not None


def test_acquire_goes_on_as_soon_as_a_slot_is_free(
    pools: Pools, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = pools.make(34, 18, slots=1)
    sleep = pool.changed.wait
    monkeypatch.setattr(pool.changed, "wait", lambda _timeout: sleep(60))  # it must be woken
    held = pool.acquire()
    assert held is not None
    waits = threading.Event()
    got: list[Lease | None] = []

    def wait() -> bool:
        waits.set()
        return True

    thread = threading.Thread(target=lambda: got.append(pool.acquire(wait=wait)))
    thread.start()
    assert waits.wait(10)
    held.release()
    thread.join(10)
    assert not thread.is_alive()
    (lease,) = got
    assert lease is not None
    assert lease.slot == held.slot
    assert lease.generation == held.generation + 1
    assert pool.peak_used == 1


def test_acquire_gives_up_when_told(pools: Pools) -> None:
    pool = pools.make(34, 18, slots=1)
    held = pool.acquire()
    waits, halt = threading.Event(), threading.Event()
    got: list[Lease | None] = []

    def wait() -> bool:
        waits.set()
        return not halt.is_set()

    thread = threading.Thread(target=lambda: got.append(pool.acquire(wait=wait)))
    thread.start()
    assert waits.wait(10)
    halt.set()
    thread.join(10)
    assert got == [None]
    assert held is not None


# Memory.


def test_more_than_there_is_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "memory_available_bytes", lambda: 100 << 20)
    with pytest.raises(
        OutOfMemory,
        match=r"^pool:gate: 63 MB of shared memory are needed, 38 MB are available; "
        r"use fewer or smaller cameras, a smaller encode\.join_frames, or raise the memory limit$",
    ):
        allocate("pool:gate", 60 << 20)
    os.close(allocate("pool:gate", 36 << 20))  # the remedy
    monkeypatch.setattr(memory, "memory_available_bytes", lambda: 1 << 20)
    with pytest.raises(OutOfMemory, match="7 MB of shared memory are needed, 0 MB are available"):
        allocate("pool:gate", 7 << 20)
    assert memfds() == 0


def test_what_the_kernel_refuses_is_the_same_error() -> None:
    with pytest.raises(OutOfMemory, match=r"^pool:gate: 0 MB refused by the kernel: .*Invalid"):
        allocate("pool:gate", 0)
    assert memfds() == 0


def test_memory_is_allocated_at_once_and_held_by_its_mappings() -> None:
    size, name = 24 << 20, f"pool:{uuid.uuid4().hex}"
    fd = allocate(name, size)
    assert os.fstat(fd).st_blocks * 512 >= size  # without a first touch
    mapping = memory.SharedMemory(PID, fd)
    view = mapping.buffer[:10]
    os.close(fd)
    del mapping
    assert holders(name) == {PID}
    view[0] = 1  # views keep it alive
    view.release()
    del view
    assert holders(name) == set()


def test_a_killed_reader_leaves_nothing_behind() -> None:
    size, name = 8 << 20, f"pool:{uuid.uuid4().hex}"
    fd = allocate(name, size)
    child = subprocess.Popen(
        [
            sys.executable, "-c",
            "import sys; from streamer.memory import SharedMemory; "
            f"memory = SharedMemory({PID}, {fd}); memory.buffer[-1] = 9; "
            "print('mapped', flush=True); sys.stdin.read()",
        ],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "mapped\n"
        assert os.pread(fd, 1, size - 1) == b"\x09"
        os.close(fd)
        assert holders(name) == {child.pid}
        child.send_signal(signal.SIGKILL)
        assert child.wait(30) == -signal.SIGKILL
    assert holders(name) == set()


def test_available_memory_knows_the_machine_and_both_kinds_of_control_groups(
    tmp_path: Path,
) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    5000 kB\nCached: 1 kB\n")
    place = proc / "self" / "cgroup"

    def limit(folder: str, files: dict[str, str]) -> None:
        (groups / folder).mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (groups / folder / name).write_text(text + "\n")

    place.write_text("3:cpu:/\n0::/unit\n")
    assert memory_available_bytes(proc, groups) == 5000 * 1024  # no limit at all
    limit("unit", {"memory.max": "max", "memory.current": "1000", "memory.stat": "anon 1000"})
    assert memory_available_bytes(proc, groups) == 5000 * 1024
    limit("", {"memory.max": "9000", "memory.current": "2000", "memory.stat": "anon 2000"})
    assert memory_available_bytes(proc, groups) == 7000  # a level above limits, too
    limit("unit", {"memory.max": "4000", "memory.current": "1000"})
    assert memory_available_bytes(proc, groups) == 3000
    limit("unit", {"memory.current": "5000"})
    assert memory_available_bytes(proc, groups) == 0
    limit("unit", {"memory.stat": "anon 1500\nfile 3500\ninactive_file 3400"})
    assert memory_available_bytes(proc, groups) == 2400  # a file's cache gives way
    place.write_text("4:memory:/old\n0::/\n")
    limit("", {"memory.max": "max"})
    limit("memory/old", {"memory.limit_in_bytes": "800", "memory.usage_in_bytes": "300"})
    limit("memory/old", {"memory.stat": "inactive_file 1\ntotal_inactive_file 20"})
    assert memory_available_bytes(proc, groups) == 520
    assert memory_available_bytes() > 0
