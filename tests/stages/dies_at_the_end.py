"""Infers as usual, and is killed when all is done, before it can say so."""

from __future__ import annotations

import os
import signal

from streamer.stages.infer import Infer


class DiesAtTheEnd(Infer):
    """The successor finds that nobody is left to send anything to."""

    def on_close(self) -> None:
        """Die, the first time."""
        if not self.start.incarnation:
            os.kill(os.getpid(), signal.SIGKILL)
        super().on_close()


make = DiesAtTheEnd
