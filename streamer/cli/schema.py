"""`streamer schema`: print the JSON schema of all events."""

from __future__ import annotations

import json
from collections.abc import Sequence

from streamer.cli.main import make_parser
from streamer.events import schema


def main(arguments: Sequence[str]) -> int:
    """Print the schema."""
    make_parser("schema").parse_args(arguments)
    print(json.dumps(schema(), indent=2))
    return 0
