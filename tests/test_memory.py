"""Shared memory is refused before it kills somebody, and is gone when its owner is."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from streamer import memory
from streamer.errors import OutOfMemory
from streamer.memory import SharedMemory, allocate, memory_available_bytes, slot_bytes


@pytest.mark.parametrize(
    ("place", "folder", "limit", "used"),
    [
        ("0::/box", "box", "memory.max", "memory.current"),
        ("4:memory:/box", "memory/box", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ],
)
def test_the_control_group_limits_what_is_available(tmp_path, place, folder, limit, used):
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 8000 kB\n")
    (tmp_path / "proc" / "self" / "cgroup").write_text(f"1:name=systemd:/\n{place}\n")
    group = tmp_path / "groups" / folder
    group.mkdir(parents=True)
    look = lambda: memory_available_bytes(tmp_path / "proc", tmp_path / "groups")  # noqa: E731
    assert look() == 8000 * 1024
    (group / used).write_text("1000000\n")
    (group / limit).write_text("3000000\n")
    assert look() == 2_000_000
    (group.parent / used).write_text("10\n")
    (group.parent / limit).write_text("500010\n")
    assert look() == 500_000


def test_too_much_is_refused_with_the_numbers_and_less_is_given(monkeypatch):
    monkeypatch.setattr(memory, "memory_available_bytes", lambda: 100_000_000)
    message = "pool:gate: 200 MB of shared memory are needed, 33 MB are available; use fewer"
    with pytest.raises(OutOfMemory, match=re.escape(message)):
        allocate("pool:gate", 200_000_000)
    fd = allocate("pool:gate", 20_000_000)
    assert os.fstat(fd).st_blocks * 512 >= 20_000_000  # really there, not only promised
    os.close(fd)


def test_another_process_writes_what_we_read():
    fd = allocate("test", 4096)
    script = (
        "from streamer.memory import SharedMemory\n"
        f"SharedMemory({os.getpid()}, {fd}).buffer[:5] = b'hello'"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    ours = SharedMemory(os.getpid(), fd)
    os.close(fd)
    assert bytes(ours.buffer[:5]) == b"hello"  # a mapping outlives the descriptor
    assert ours.size_bytes == 4096


def test_slots_are_whole_pages_with_room_for_header_and_planes():
    assert slot_bytes(1280, 720) == 1_384_448
    assert slot_bytes(1, 1) == 4096
    assert slot_bytes(1281, 721) % 4096 == 0
