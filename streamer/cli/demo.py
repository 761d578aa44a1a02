"""`streamer demo`: run on the rendered street, whose truth is known."""

from __future__ import annotations

from collections.abc import Sequence

from streamer.cli.main import EPILOG, make_parser
from streamer.cli.run import add_options, configure, run

SCENE = "synthetic:street?seed=1&size=1280x720&fps=25&seconds=20"


def main(arguments: Sequence[str]) -> int:
    """Parse `streamer demo` and run it."""
    parser = make_parser("demo", epilog=EPILOG)
    add_options(parser)
    options = parser.parse_args(arguments)
    options.out = options.out or "streamer-demo.mp4"
    code = run(configure([SCENE], options), options)
    if code == 0 and not options.json:
        print(f"annotated video: {options.out}")
    return code
