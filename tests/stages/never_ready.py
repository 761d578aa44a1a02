"""A stage that never gets ready, as one that waits for a device that doesn't answer."""

import threading

from streamer.stage import Stage


class NeverReady(Stage):
    def on_open(self) -> None:
        threading.Event().wait()


make = NeverReady
