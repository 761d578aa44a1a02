"""Start `streamer run` as a user would, and watch it from outside: its events, stages and memory.

Knows the command line, the event file and /proc; imports nothing of the pipeline.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import zmq

from benchmarks.report import ROOT

CROWD = "video/walking_crowd_720p.mp4"
HIGHWAY = "video/highway_320x240.avi"
YOLOX = "weights/yolox_nano_416_coco.onnx"
STREET = "synthetic:street?size=1280x720&fps=25"

Event = dict[str, Any]


class RunFailed(RuntimeError):
    """The pipeline ended with an error; the text is what it printed."""


class Run:
    """One `streamer run` in its own process; kills it on leaving the with block."""

    def __init__(self, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        self.started_s = time.monotonic()
        self.started_wall_s = time.time()
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the run
        self._state = tempfile.TemporaryDirectory()  # the log of this host's events is not ours
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import sys; from streamer.cli.main import main; sys.exit(main())",
                "run",
                *arguments,
                "--json",
            ],
            cwd=ROOT,
            env={**os.environ, "XDG_STATE_HOME": self._state.name, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._log.close()
        self._state.cleanup()

    @property
    def pid(self) -> int:
        """Of the supervisor."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """It has not ended yet."""
        return self._process.poll() is None

    @property
    def log(self) -> str:
        """What it has said on standard error."""
        self._log.seek(0)
        return self._log.read()

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def summary(self, *, timeout_s: float = 3600.0) -> dict[str, Any]:
        """Wait for its end and read the figures that it prints last.

        Raises:
            RunFailed: it ended with an error.
        """
        out, _ = self._process.communicate(timeout=timeout_s)
        if self._process.returncode != 0 or not out.strip():
            raise RunFailed(f"streamer run: exit code {self._process.returncode}\n{self.log}")
        figures: dict[str, Any] = json.loads(out.splitlines()[-1])
        return figures

    def stages(self) -> dict[str, int]:
        """Process numbers of its stages, by name, and its own as "supervisor"."""
        found = {"supervisor": self.pid}
        for child in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split():
            words = read(f"/proc/{child}/cmdline").split("\0")
            if "streamer.stage" in words:
                found[words[words.index("streamer.stage") + 1]] = int(child)
        return found


def events_of(path: Path) -> list[Event]:
    """All events that a run has written into its file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def first_event(run: Run, path: Path, kind: str, *, timeout_s: float = 60.0) -> Event:
    """Wait until an event of a kind is in the file.

    Raises:
        RunFailed: the run ended, or the time is over, without it.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        running = run.running
        for line in read(str(path)).splitlines():
            if line.startswith(f'{{"type":"{kind}"') and line.endswith("}"):
                event: Event = json.loads(line)
                return event
        if not running:
            run.summary()
            break
        time.sleep(0.005)
    raise RunFailed(f"streamer run: no {kind} event within {timeout_s:g} s; see {path}")


def endpoint() -> str:
    """A fresh address for --publish; leaves no file."""
    return f"ipc://@bench-{secrets.token_hex(6)}"


def listen(run: Run, address: str) -> Iterator[tuple[int, bytes]]:
    """Yield what the run publishes with the wall clock of its arrival, ns, until the run ends."""
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.RECONNECT_IVL, 10)
        socket.set(zmq.SUBSCRIBE, b"")
        socket.connect(address)
        while run.running:
            if socket.poll(100):
                _, line = socket.recv_multipart()
                yield time.time_ns(), line


def memory_mb(pid: int) -> dict[str, float]:
    """Memory of a process by kind, MB; the pool is in "shared"."""
    lines = dict(
        line.split(":", 1) for line in read(f"/proc/{pid}/status").splitlines() if ":" in line
    )
    kinds = {"anonymous": "RssAnon", "file": "RssFile", "shared": "RssShmem"}
    return {
        kind: round(int(lines[field].split()[0]) / 1024, 2)
        for kind, field in kinds.items()
        if field in lines
    }


def descriptors(pid: int | str) -> int:
    """Open descriptors of a process."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def abstract_sockets(prefix: str) -> list[str]:
    """Names of abstract sockets on this machine that begin with a prefix."""
    names = {line.rpartition(" ")[2] for line in read("/proc/net/unix").splitlines()}
    return sorted(name for name in names if name.startswith(f"@{prefix}"))


def read(path: str) -> str:
    """Text of a file, or nothing if it is not there (any more)."""
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def cameras_yaml(path: Path, cameras: Mapping[str, Mapping[str, str]], **sections: object) -> Path:
    """Write a configuration; JSON is YAML."""
    path.write_text(json.dumps({"cameras": cameras, **sections}))
    return path
