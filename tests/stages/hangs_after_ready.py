"""A stage whose main loop stops turning once it is ready, as in a dead lock; it doesn't die."""

import threading

from streamer.stage import Stage


class HangsAfterReady(Stage):
    def finished(self) -> bool:
        threading.Event().wait()
        return True


make = HangsAfterReady
