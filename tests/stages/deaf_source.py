"""A source whose library blocks for ever in `open` and heeds no deadline, as some drivers do."""

import threading

from streamer.sources.base import Source, SourceInfo
from streamer.stages import decode

decode._HANG_S = 0.5


class Deaf:
    def open(self) -> SourceInfo:
        threading.Event().wait()
        raise AssertionError

    def close(self) -> None:
        pass


class DeafSource(decode.Decode):
    def _make_source(self) -> Source:
        return Deaf()


make = DeafSource
