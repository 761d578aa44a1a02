"""The `streamer` command: one module per subcommand, each loads only what it needs."""

from streamer.cli.main import main

__all__ = ["main"]
