"""Runs `streamer` as a user does, in processes of its own, and looks at them from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import av
import psutil

ROOT = Path(__file__).resolve().parent.parent
COMMAND = [sys.executable, "-c", "import sys; from streamer.cli import main; sys.exit(main())"]

T = TypeVar("T")


def environment() -> dict[str, str]:
    """Of a process that finds this source, and whose event log is the test's own."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def wait_for(look: Callable[[], T | None], what: str, timeout_s: float = 20.0) -> T:
    """Look again and again until there is something; AssertionError after the deadline."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.02)  # between two looks at other processes; there is nothing to wait on
    raise AssertionError(f"{what}: not within {timeout_s} s")


def streamer(*arguments: object, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


class Run:
    """A `streamer run` in the background, with its events in a file; killed at the end."""

    def __init__(self, folder: Path, *arguments: object) -> None:
        self.events_file = folder / "events.jsonl"
        self.log_file = folder / "log.txt"
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [*COMMAND, "run", *map(str, arguments), "--events", self.events_file, "--json"],
                env=environment(),
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self.children():
            child.kill()
        self.process.kill()
        self.process.wait()
        assert self.process.stdout
        self.process.stdout.close()

    def children(self) -> list[psutil.Process]:
        """All processes of this run but the first."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def stage(self, name: str) -> psutil.Process:
        """The process of one stage."""

        def find() -> psutil.Process | None:
            for child in self.children():
                try:
                    command = child.cmdline()
                except psutil.Error:
                    continue
                if command and command[-1] == name and child.status() != psutil.STATUS_ZOMBIE:
                    return child
            return None

        return wait_for(find, f"stage {name}")

    def events(self) -> list[dict[str, object]]:
        """All whole lines that are in the event file by now."""
        if not self.events_file.exists():
            return []
        lines = self.events_file.read_bytes().split(b"\n")[:-1]
        return [json.loads(line) for line in lines]

    def wait_event(
        self, kind: str, count: int = 1, timeout_s: float = 30.0, **fields: object
    ) -> dict[str, object]:
        """Wait for the n-th event of a type with these fields."""

        def find() -> dict[str, object] | None:
            hits = [
                event
                for event in self.events()
                if event["type"] == kind and fields.items() <= event.items()
            ]
            return hits[count - 1] if len(hits) >= count else None

        try:
            return wait_for(find, f"event {kind} {fields}", timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log_file.read_text()[-3000:]}") from None

    def stop(self, timeout_s: float = 10.0) -> dict[str, object]:
        """Ctrl-C, and the summary that it ends with."""
        self.process.send_signal(signal.SIGINT)
        return self.finish(timeout_s)

    def finish(self, timeout_s: float = 60.0) -> dict[str, object]:
        """Wait for the end; the summary."""
        out, _ = self.process.communicate(timeout=timeout_s)
        assert self.process.returncode == 0, self.log_file.read_text()[-3000:]
        return json.loads(out.decode().splitlines()[-1])


def play(path: Path) -> list[float]:
    """Decode a whole file; the media times of its frames in seconds."""
    with av.open(str(path)) as container:
        return [float(frame.time) for frame in container.decode(video=0)]


def assert_no_gaps(events: list[dict[str, object]]) -> None:
    """Every camera's sequence numbers count up from 1 but for what stage.restarted says is lost."""
    expected: dict[object, int] = {}
    for event in events:
        camera, seq = event["camera"], event["seq"]
        if event["type"] == "heartbeat":
            continue  # it has no number of its own
        assert isinstance(seq, int)
        want = expected.get(camera, 1)
        if seq != want:
            assert event["type"] == "stage.restarted", (want, event)
            assert event["lost_from"] is not None
            assert event["lost_to"] == seq - 1
            assert want >= event["lost_from"]  # type: ignore[operator]
        expected[camera] = seq + 1


def segments(folder: Path) -> Iterator[Path]:
    """All recorded files, by time."""
    yield from sorted(folder.rglob("*.mp4"))
