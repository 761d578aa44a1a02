"""A stage that neither Stop nor SIGTERM ends; only SIGKILL does."""

import logging
import signal

from streamer.stage import Stage

log = logging.getLogger(__name__)


class IgnoresStop(Stage):
    def on_open(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        log.info("deaf from now on")

    def on_stop(self, *, drain: bool) -> None:
        pass

    def finished(self) -> bool:
        return False


make = IgnoresStop
