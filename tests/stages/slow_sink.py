"""A recorder that takes longer for each frame than frames take to come, as on a slow disk."""

import time

from streamer.join import Joined
from streamer.messages import Tracks
from streamer.queues import Received
from streamer.stages.encode import Encode


class SlowSink(Encode):
    def _write(self, joined: Joined[Received, Tracks]) -> None:
        time.sleep(0.15)  # the slowness itself, not a wait for something
        super()._write(joined)


make = SlowSink
