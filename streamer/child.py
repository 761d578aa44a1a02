"""One stage process as its supervisor sees it: started, watched, killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from streamer.graph import StageSpec
from streamer.stage import StageStart

_MAX_LINE_BYTES = 8192


class Child:
    """A running stage process.

    Attributes:
        endpoint: where consumers reach it; empty until it is ready.
        ended: it said that its work is done, so its exit is no accident.
        heard_at: monotonic time of its last sign of life.
    """

    def __init__(self, spec: StageSpec, start: StageStart) -> None:
        self.spec = spec
        self.incarnation = start.incarnation
        self.endpoint = ""
        self.ended = False
        self.started_at = self.heard_at = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "streamer.stage", spec.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_environment(live=start.live.get(spec.camera, any(start.live.values()))),
        )
        assert self._process.stdin
        assert self._process.stdout
        try:
            self._process.stdin.write(msgspec.json.encode(start))
            self._process.stdin.close()
        except BrokenPipeError:
            pass  # it is dead already; its exit is seen in a moment
        self.pidfd = os.pidfd_open(self._process.pid)
        self.log_fd = self._process.stdout.fileno()
        os.set_blocking(self.log_fd, False)
        self._tail = b""

    @property
    def pid(self) -> int:
        """Process number."""
        return self._process.pid

    @property
    def ready(self) -> bool:
        """True once it said so."""
        return bool(self.endpoint)

    def exitcode(self) -> int:
        """Reap the dead process: its exit code, negative for a signal."""
        return self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, unless it is dead already."""
        if self._process.poll() is None:
            self._process.send_signal(number)

    def log_lines(self) -> list[str]:
        """Whole lines that it has printed since the last call."""
        try:
            data = os.read(self.log_fd, 65536)
        except (BlockingIOError, OSError):
            return []
        *lines, self._tail = (self._tail + data).split(b"\n")
        if len(self._tail) > _MAX_LINE_BYTES or not data:
            lines, self._tail = [*lines, self._tail], b""
        return [line.decode(errors="replace") for line in lines if line.strip()]

    def close(self) -> None:
        """Let go of its descriptors, once it is dead."""
        os.close(self.pidfd)
        assert self._process.stdout
        self._process.stdout.close()


def _environment(*, live: bool) -> dict[str, str]:
    """Few threads inside a stage, since the stages themselves run side by side; and our own code
    from where it is, never from the working directory."""
    # What is as large as a picture goes back to the kernel when it is freed. That costs 0.7 ms of a
    # 720p frame, so a file does without; a camera is recorded for months, and must not grow.
    steady = {"MALLOC_MMAP_THRESHOLD_": "262144"} if live else {}
    root = str(Path(__file__).resolve().parent.parent)
    inherited = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        **steady,
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([root, inherited] if inherited else [root]),
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
    }
