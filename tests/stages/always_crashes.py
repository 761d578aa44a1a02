"""A stage that dies as soon as it is started, as one with a broken library does."""

from streamer.stage import Stage


class AlwaysCrashes(Stage):
    def on_open(self) -> None:
        raise RuntimeError("crashes by design")


make = AlwaysCrashes
