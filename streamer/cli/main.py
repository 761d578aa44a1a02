"""Turn the command line into one subcommand and its exit code.

Exit codes: 0 done (a file played to its end, or a clean stop), 2 wrong option or configuration,
3 a source could not be opened or broke for good, 4 a stage or an output failed, 130 killed by a
second Ctrl-C. Anything else is a fault of this program.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence

from streamer import __version__
from streamer.errors import ConfigError, SourceError, StreamerError
from streamer.sources.redact import redact

COMMANDS = {
    "run": "detect, track and record one or more sources",
    "demo": "run on a rendered street: no camera, no network, no file needed",
    "check": "check a configuration and say what it would use; runs nothing",
    "probe": "say what a source is: codec, size, rate, key frames, clock",
    "engines": "list, fetch, add, build, measure and check networks",
    "events": "print the events of this host's log, or of a running pipeline",
    "codec": "write, read and compare recordings of the learned codec (.lvc)",
    "schema": "print the JSON schema of all events",
    "doctor": "say what this machine has and lacks",
}
EPILOG = __doc__.partition("\n\n")[2] if __doc__ else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; errors that a user can mend are one line on standard error."""
    parser = argparse.ArgumentParser(
        prog="streamer",
        description="Detect, track and record camera streams.",
        epilog=EPILOG,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"streamer {__version__}")
    parser.add_argument("--verbose", action="store_true", help="log more")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        # Each command's own help is in its module; loading all of them would cost their libraries.
        subparsers.add_parser(name, help=text, add_help=False)
    known, rest = parser.parse_known_args(arguments)
    logging.basicConfig(
        level=logging.DEBUG if known.verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as in the stages
    command = importlib.import_module(f"streamer.cli.{known.command}")
    try:
        code: int = command.main(rest)
    except StreamerError as error:
        print(f"streamer: error: {redact(str(error))}", file=sys.stderr)
        return exit_code(error)
    except BrokenPipeError:
        sys.stderr.close()  # whoever read us has gone; there is nobody to complain to
        return 0
    return code


def exit_code(error: StreamerError) -> int:
    """The exit code that says what kind of error it was."""
    if isinstance(error, ConfigError):
        return 2
    return 3 if isinstance(error, SourceError) else 4


def make_parser(name: str, *, epilog: str = "") -> argparse.ArgumentParser:
    """A parser for one subcommand, with its description from the list of commands."""
    return argparse.ArgumentParser(
        prog=f"streamer {name}",
        description=f"{COMMANDS[name][0].upper()}{COMMANDS[name][1:]}.",
        epilog=epilog,
        allow_abbrev=False,
    )
