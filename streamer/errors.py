"""Every error that streamer raises, one class per cause; imported by all, imports nothing.

The text of each says where, what is wrong, and what to do about it.
"""


class StreamerError(Exception):
    """Base of all errors of this package; catch it to catch whatever streamer says is wrong."""


class ConfigError(StreamerError, ValueError):
    """The configuration or a command-line option is wrong; nothing was started."""


class SourceError(StreamerError, OSError):
    """A source could not be opened or read.

    Attributes:
        reason: why, as one word that events carry: "not_found", "auth", "timeout", "refused",
            "tls", "codec", "corrupt", "stalled", "ended", or "io" for any other cause.
        permanent: True if trying again can't help (no such file, a wrong password).
    """

    def __init__(self, message: str, *, reason: str, permanent: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.permanent = permanent


class SinkError(StreamerError, OSError):
    """An output could not be written (disk full, no folder); what was flushed stays readable."""


class QueueClosed(StreamerError):
    """You closed this queue; see PeerLost if the other side went away."""


class PeerLost(StreamerError):
    """The other side of a queue is gone; the supervisor says when its successor is there."""


class StaleFrame(StreamerError):
    """The slot was given to another frame since this descriptor was made; drop the frame."""


class MessageError(StreamerError, ValueError):
    """Bytes from a peer are no message of this version; they were discarded."""


class OutOfMemory(StreamerError, MemoryError):
    """A frame pool is larger than the memory that is available; nothing was allocated."""


class StageFailed(StreamerError):
    """A stage died more often than its restart limit allows.

    Attributes:
        stage: name in the graph, such as "infer" or "encode.gate".
        exitcode: of its last incarnation; negative for a signal.
        kind: name of the error that it reported; empty if it died without a word.
    """

    def __init__(
        self, message: str, *, stage: str, exitcode: int | None = None, kind: str = ""
    ) -> None:
        super().__init__(message)
        self.stage = stage
        self.exitcode = exitcode
        self.kind = kind
