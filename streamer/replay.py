"""Answer subscribers that ask for events again, from the log; a thread of the publish process.

Each answer is made from its request alone: nothing is kept of any subscriber, and one that does not
read its answers loses them. Speaks to REQ and DEALER sockets: a JSON request (ReplayRequest in
sequence.py), an answer in two parts, a JSON head and the events, one a line.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import msgspec
import zmq

from streamer.errors import SinkError
from streamer.eventlog import LogReader
from streamer.sequence import ReplayAnswer, ReplayRequest

log = logging.getLogger(__name__)

PAGE_BYTES = 1_000_000
"""An answer is cut after the event with which it becomes larger than this."""
_LOOK_MS = 200
"""How soon the thread sees that it shall end."""
_decode = msgspec.json.Decoder(ReplayRequest).decode
_encode = msgspec.json.Encoder().encode


class ReplayService(threading.Thread):
    """Serves one log.

    Args:
        socket: a bound ROUTER; it is this thread's from `start` on, which closes it.
        path: of the log.
    """

    def __init__(self, socket: zmq.Socket[bytes], path: Path) -> None:
        super().__init__(name="replay", daemon=True)
        self._socket = socket
        self._path = path
        self._closing = threading.Event()

    def run(self) -> None:
        """Answer until closed."""
        reader = LogReader(self._path)
        try:
            while not self._closing.is_set():
                if self._socket.poll(_LOOK_MS):
                    self._serve(reader, self._socket.recv_multipart())
        finally:
            reader.close()
            self._socket.close()

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        self.join()

    def _serve(self, reader: LogReader, parts: list[bytes]) -> None:
        *envelope, request = parts
        if len(envelope) not in (1, 2) or envelope[1:] not in ([], [b""]):
            return  # neither REQ nor DEALER
        try:
            self._socket.send_multipart([*envelope, *answer(reader, request)], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            log.debug("replay: an answer was lost: %s", error)  # it has gone, or does not read


def answer(reader: LogReader, request: bytes) -> list[bytes]:
    """The two parts of the answer to a request, whatever it is."""
    try:
        wanted = _decode(request)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        problem = f"replay: not a request: {error}; see ReplayRequest in streamer/sequence.py"
        return [_encode(ReplayAnswer(error=problem)), b""]
    camera = wanted.camera
    try:
        rows = reader.numbers(
            camera,
            from_seq=wanted.from_seq,
            to_seq=wanted.to_seq,
            after=wanted.after,
            limit=wanted.limit,
            limit_bytes=PAGE_BYTES,
        )
        first, last = reader.first_seq(camera), reader.last_seq(camera)
    except SinkError as error:
        return [_encode(ReplayAnswer(camera, error=str(error))), b""]
    more = bool(rows) and rows[-1].seq < min(wanted.to_seq, last)
    head = ReplayAnswer(camera, first, last, more)
    return [_encode(head), b"\n".join([row.line for row in rows])]


def replay_address(replay: str, publish: str) -> str | None:
    """Where the service binds, or None for nowhere.

    Args:
        replay: as configured; "auto" follows from `publish`.
        publish: where events are published; empty for nowhere.
    """
    if replay != "auto":
        return None if replay == "off" else replay
    if not publish.startswith("tcp://"):
        return f"{publish}.replay" if publish else None
    host, _, port = publish.rpartition(":")
    following = int(port) + 1 if port.isdecimal() else 0
    return f"{host}:{following if 0 < following < 65536 else '*'}"
