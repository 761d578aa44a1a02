"""`streamer events`: print what is in this host's event log, or what a pipeline publishes."""

from __future__ import annotations

import argparse
import datetime as dt
import itertools
import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from streamer.cli.main import make_parser
from streamer.client import subscribe
from streamer.errors import ConfigError
from streamer.eventlog import LogReader, default_path

DEFAULT_ADDRESS = "tcp://127.0.0.1:5560"
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_COMMON = ("schema", "type", "id", "seq", "camera", "time_utc", "pts_s", "frame")
_FOLLOW_S = 1.0

EPILOG = """\
examples:
  streamer events --since 2h --camera gate --type zone.enter --json | jq .track_id
  streamer events --follow                       what this host logs from now on
  streamer events --connect tcp://host:5560      a subscriber, as any other program would be
"""


def main(arguments: Sequence[str]) -> int:
    """Print events until there are no more."""
    options = parse(arguments)
    lines = _published(options) if options.connect else _logged(options)
    show = (lambda line: line) if options.json else _in_words
    try:
        for line in itertools.islice(lines, options.count):
            sys.stdout.buffer.write(show(line) + b"\n")
            sys.stdout.buffer.flush()
    except KeyboardInterrupt:
        pass  # the usual way to end it
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = make_parser("events", epilog=EPILOG)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--log", type=Path, metavar="FILE", help="read this log; default the one of this host"
    )
    where.add_argument(
        "--connect",
        nargs="?",
        const=DEFAULT_ADDRESS,
        metavar="ADDR",
        help="listen to what was given as --publish; default tcp://127.0.0.1:5560",
    )
    parser.add_argument(
        "--since",
        metavar="TIME",
        help="only of the last 90s, 15m, 2h, 7d, or from 2026-11-21T10:00Z on",
    )
    parser.add_argument("--camera", help="only of this camera; '' for the host")
    parser.add_argument("--type", help="only of types that begin so, such as track")
    parser.add_argument("--json", action="store_true", help="whole events, as JSON lines")
    parser.add_argument("--follow", action="store_true", help="go on with what comes")
    parser.add_argument("--count", type=int, metavar="N", help="stop after so many")
    parser.add_argument(
        "--wait",
        type=float,
        default=3.0,
        metavar="S",
        help="--connect without --follow: end after so many silent seconds; default 3",
    )
    options = parser.parse_args(arguments)
    if options.connect and options.since:
        parser.error("--since: needs the log; leave --connect out")
    return options


def since_ns(text: str, now_ns: int) -> int:
    """A point in time as it is given to --since, in ns since 1970 UTC.

    Raises:
        ConfigError: it is none.
    """
    span = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text)
    if span:
        return now_ns - int(float(span[1]) * _UNITS_S[span[2]] * 1e9)
    try:
        # Python 3.10 knows no Z.
        moment = dt.datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError as error:
        raise ConfigError(
            f"--since: must be a span such as 90s, 15m, 2h or 7d, or a time such as "
            f"2026-11-21T10:00Z, got {text!r}; mend it"
        ) from error
    return int(moment.timestamp() * 1e6) * 1000


def _published(options: argparse.Namespace) -> Iterator[bytes]:
    return subscribe(
        options.connect,
        camera=options.camera,
        kind=options.type,
        silent_s=None if options.follow else options.wait,
    ).lines()


def _logged(options: argparse.Namespace) -> Iterator[bytes]:
    path = options.log or default_path()
    if not path.exists() and not options.follow:
        raise ConfigError(
            f"{path}: there is no event log; `streamer run` keeps one for live sources, or where "
            "it is told to (--log FILE); --connect listens to a pipeline without one"
        )
    reader = LogReader(path)
    begin_ns = since_ns(options.since, time.time_ns()) if options.since else None
    if begin_ns is not None:
        after = reader.rowid_before(begin_ns)
    else:
        after = reader.last_rowid() if options.follow else 0
    while True:
        newest = reader.last_rowid()
        rows = reader.read(
            after, camera=options.camera, kind=options.type, since_ns=begin_ns, limit=1000
        )
        yield from (row.line for row in rows)
        if rows:
            after = rows[-1].rowid
        elif not options.follow:
            return
        else:
            after = max(after, newest)  # over what is of another camera or type
            reader.wait(after, _FOLLOW_S)


def _in_words(line: bytes) -> bytes:
    """One event as a line for people: no ids, no boxes."""
    event = json.loads(line)
    words = [event["time_utc"], event["camera"] or "host", event["type"], f"#{event['seq']}"]
    if event.get("pts_s") is not None:
        words.append(f"at {event['pts_s']:.2f} s")
    for name, value in event.items():
        if name == "objects":
            words.append(f"{len(value)} objects")
        elif name not in _COMMON and not isinstance(value, list) and value is not None:
            words.append(f"{name}={value}")
    return " ".join(words).encode()
