"""`streamer events`: print the events of a running pipeline, as any other subscriber would."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence

from streamer.cli.main import make_parser
from streamer.client import subscribe_raw

DEFAULT_ADDRESS = "tcp://127.0.0.1:5560"


def main(arguments: Sequence[str]) -> int:
    """Print events as JSON lines until there are no more."""
    parser = make_parser("events")
    parser.add_argument(
        "--connect",
        default=DEFAULT_ADDRESS,
        metavar="ADDR",
        help="what the pipeline was given as --publish; default tcp://127.0.0.1:5560",
    )
    parser.add_argument("--follow", action="store_true", help="wait for ever")
    parser.add_argument("--camera", help="only of this camera")
    parser.add_argument("--type", help="only of types that begin so, such as track")
    parser.add_argument("--count", type=int, help="stop after so many")
    parser.add_argument(
        "--wait",
        type=float,
        default=3.0,
        metavar="S",
        help="without --follow: end after so many silent seconds; default 3",
    )
    options = parser.parse_args(arguments)
    lines = subscribe_raw(
        options.connect,
        camera=options.camera,
        kind=options.type,
        silent_s=None if options.follow else options.wait,
    )
    try:
        for line in itertools.islice(lines, options.count):
            sys.stdout.buffer.write(line + b"\n")
            sys.stdout.buffer.flush()
    except KeyboardInterrupt:
        pass  # the usual way to end it
    return 0
