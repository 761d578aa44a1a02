"""What the README shows of events is run as it stands there, but for the address."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import missing
from pipeline import COMMAND, environment
from station import Station

from streamer.eventlog import default_path

ROOT = Path(__file__).resolve().parent.parent
SNIPPET = re.compile(
    r"<!-- run by tests/test_readme_events.py -->\n```(python|sh)\n(.*?)```\n", re.DOTALL
)


def snippets(language: str) -> list[str]:
    found = SNIPPET.findall((ROOT / "README.md").read_text())
    return [text for kind, text in found if kind == language]


@pytest.fixture
def station(tmp_path: Path) -> Iterator[Station]:
    """Has logged five events of gate, the last of a track that has ended."""
    with Station(tmp_path, log=default_path()) as station:
        for _ in range(4):
            station.make()
        station.make_track_ended()
        yield station


def run_until(snippet: str, station: Station, said: bytes, act: Callable[[], None]) -> bytes:
    """Run a snippet of Python, act once it has subscribed, and kill it when it has said enough."""
    code = snippet.replace("tcp://127.0.0.1:5560", station.address)
    assert code != snippet
    program = subprocess.Popen(
        [sys.executable, "-u", "-c", code], env=environment(), stdout=subprocess.PIPE
    )
    assert program.stdout is not None
    try:
        station.wait_for_subscriber()
        act()
        heard = b""
        for line in program.stdout:
            heard += line
            if said in line:
                return heard
        raise AssertionError(f"it has ended after {heard!r}")
    finally:
        program.kill()
        program.wait()
        program.stdout.close()


def test_the_example_fetches_what_it_has_missed(station):
    snippet = snippets("python")[0]
    assert snippet.count("\n") <= 10
    heard = run_until(snippet, station, b"lost for good", station.beat).splitlines()
    assert [line.split()[0] for line in heard[:5]] == [b"1", b"2", b"3", b"4", b"5"]
    assert heard[4].endswith(b" TrackEnded")
    assert heard[5] == b"person 4 was there for 2.5 s"
    assert heard[6] == b"go on later with since={'gate': 6}; lost for good: 0"


def test_the_asynchronous_example_listens(station):
    def act() -> None:
        station.send(station.make(), station.make_track_ended())

    assert run_until(snippets("python")[1], station, b"gate", act) == b"gate 4\n"


def test_the_same_from_the_shell(station, tmp_path):
    if shutil.which("jq") is None:
        missing("no jq")
    (snippet,) = snippets("sh")
    once, follow = snippet.splitlines()
    command = tmp_path / "bin" / "streamer"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {shlex.join(COMMAND)} "$@"\n')
    command.chmod(0o755)
    env = {**environment(), "PATH": f"{command.parent}:{os.environ['PATH']}"}
    table = subprocess.run(
        ["bash", "-o", "pipefail", "-c", once], env=env, capture_output=True, text=True, check=True
    ).stdout
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\S+Z\tperson\t2\.5\n", table)
    # From the beginning on, so that it need not be waited for; jq would keep lines to itself.
    follow = follow.replace("--follow", "--follow --since 1h").replace("jq", "jq --unbuffered")
    following = subprocess.Popen(
        ["bash", "-c", follow],
        env=env, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert following.stdout is not None
    station.make()
    lines = [following.stdout.readline() for _ in range(5)]
    os.killpg(following.pid, 15)
    following.communicate()
    assert lines[0] == '{"camera":"gate","reason":"number 1"}\n'
    assert lines[4] == '{"camera":"gate","reason":"number 6"}\n'
