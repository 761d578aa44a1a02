"""Counters that outlive their stage."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamer.ledger import COUNTERS, Ledger, make_ledger

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def ledger_fd() -> Iterator[int]:
    """The counters of a stage, as its supervisor owns them."""
    fd = make_ledger("publish")
    yield fd
    os.close(fd)


def test_counters_begin_at_zero_and_hold_64_bits(ledger_fd: int) -> None:
    ledger = Ledger(os.getpid(), ledger_fd)
    assert [ledger[index] for index in range(COUNTERS)] == [0] * COUNTERS
    ledger[0], ledger[1], ledger[COUNTERS - 1] = 2**63 - 1, -(2**63), 5
    assert (ledger[0], ledger[1], ledger[2], ledger[COUNTERS - 1]) == (2**63 - 1, -(2**63), 0, 5)


def test_a_place_that_does_not_exist_is_refused(ledger_fd: int) -> None:
    ledger = Ledger(os.getpid(), ledger_fd)
    with pytest.raises(struct.error, match="requires a buffer of at least"):
        ledger[COUNTERS] = 1
    with pytest.raises(struct.error, match="requires a buffer of at least"):
        ledger[COUNTERS]
    with pytest.raises(struct.error, match=r"int too large|argument out of range"):
        ledger[0] = 2**63


def test_counters_survive_the_kill_of_their_writer(ledger_fd: int) -> None:
    writer = subprocess.Popen(
        [
            sys.executable, "-c",
            "import itertools; from streamer.ledger import Ledger\n"
            f"ledger = Ledger({os.getpid()}, {ledger_fd})\n"
            "for number in itertools.count(1):\n"
            "    ledger[3] = number\n"
            "    ledger[4] = -number\n"
            "    print(number, flush=True)",
        ],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with writer:
        assert writer.stdout is not None
        told = 0
        while told < 50:
            told = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        told = max([told, *map(int, writer.stdout.read().split())])
        assert writer.wait(30) == -signal.SIGKILL
    successor = Ledger(os.getpid(), ledger_fd)
    assert successor[3] in (told, told + 1)
    assert -successor[4] in (successor[3], successor[3] - 1)
