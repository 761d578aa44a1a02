"""Turn what a subscriber hears into the events of each camera in order, each once; no socket.

Also says how one asks for what is missing, and what is answered (ReplayRequest, ReplayAnswer).
Knows numbers, not sockets: the client asks it what is wanted, fetches that and hands it in.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import msgspec
from msgspec import Meta

from streamer.event import HOST

MAX_REQUEST_BYTES = 4096
PAGE_LINES = 1000
_HEARTBEAT = "heartbeat"

log = logging.getLogger(__name__)


class ReplayRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """subscriber -> replay service, as JSON: send me events of this camera again."""

    camera: Annotated[str, Meta(max_length=40)]
    """Empty for the host."""
    from_seq: Annotated[int, Meta(ge=1, le=2**63 - 1)] = 1
    to_seq: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 2**63 - 1
    """The last one wanted; both ends are included."""
    after: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    """Only what was logged after this row, as heartbeats count them."""
    limit: Annotated[int, Meta(ge=1, le=PAGE_LINES)] = PAGE_LINES


class ReplayAnswer(msgspec.Struct, frozen=True):
    """replay service -> subscriber, as JSON; a second part has the events, a line each."""

    camera: str = HOST
    first_seq: int = 0
    """The oldest number of this camera that is still in the log; 0 for none."""
    last_seq: int = 0
    """The newest number of this camera."""
    more: bool = False
    """There may be more that fits the request: ask again from the number after the last line."""
    error: str = ""


class _Head(msgspec.Struct):
    """What is looked at in every event."""

    id: str
    seq: int
    camera: str
    type: str


class _Beat(msgspec.Struct):
    """What is looked at in a heartbeat."""

    cameras: tuple[str, ...] = ()
    last_seqs: tuple[int, ...] = ()
    logged: int | None = None
    replay: str | None = None


_head = msgspec.json.Decoder(_Head).decode
_beat = msgspec.json.Decoder(_Beat).decode


@dataclass
class _Progress:
    """How far the events of one camera have come."""

    next: int
    """Number of the event that comes next."""
    known: int = 0
    """There are events up to this number; what is missing up to there is wanted."""
    after: int = 0
    """What is missing was logged after this row; 0 if that is not known."""
    held: deque[tuple[_Head, bytes]] = field(default_factory=deque)
    """Events that came after a gap and wait until it is closed."""


class Follower:
    """Everything a subscriber must remember to miss nothing and to see nothing twice.

    Args:
        camera: only events of this camera; None for all, "" for those of the host.
        kind: only events whose type begins so; the others are still counted.
        since: by camera, the first number that is wanted; of others, all from now on.

    Attributes:
        replay: where to ask for what is missing, as heartbeats say; None if nowhere.
        beaten: a heartbeat was heard, so that `replay` is known.
        missed: events that are gone for good.
        duplicates: events that were delivered again and dropped.
        replayed: events that came by asking.
    """

    def __init__(
        self, *, camera: str | None, kind: str | None, since: Mapping[str, int] | None
    ) -> None:
        self._camera = camera
        self._kind = kind or ""
        self._cameras = {name: _Progress(seq) for name, seq in (since or {}).items()}
        self._runs: set[str] = set()
        self._mark = 0
        self.replay: str | None = None
        self.beaten = False
        self.missed = 0
        self.duplicates = 0
        self.replayed = 0

    @property
    def position(self) -> dict[str, int]:
        """By camera, the number that comes next; `since` of a later subscription."""
        return {name: progress.next for name, progress in self._cameras.items()}

    def take(self, line: bytes) -> Iterator[bytes]:
        """Take in what the socket gave; yields the events that are in order now.

        Raises:
            msgspec.MsgspecError: it is no event; it was passed over.
        """
        head = _head(line)
        if head.type == _HEARTBEAT:
            self._hear(_beat(line))
            if self._camera in (None, HOST) and _HEARTBEAT.startswith(self._kind):
                yield line
        elif self._camera is None or head.camera == self._camera:
            yield from self._place(head, line)

    def wanted(self) -> ReplayRequest | None:
        """What to ask for next; None if nothing is missing."""
        for camera, progress in self._cameras.items():
            if progress.known >= progress.next:
                return ReplayRequest(camera, progress.next, progress.known, progress.after)
        return None

    def answer(
        self, request: ReplayRequest, answer: ReplayAnswer, lines: Sequence[bytes]
    ) -> Iterator[bytes]:
        """Take in what was answered; yields the events that are in order now."""
        progress = self._cameras[request.camera]
        for line in lines:
            head = _head(line)
            if head.seq < progress.next:
                continue
            self._miss(request.camera, progress, head.seq - progress.next)
            progress.after = 0
            progress.next = head.seq + 1
            self.replayed += 1
            self._runs.add(_run_of(head))
            if head.type.startswith(self._kind):
                yield line
        if not (answer.more and lines):
            yield from self.give_up(request)

    def give_up(self, request: ReplayRequest) -> Iterator[bytes]:
        """What is still missing will not come; yields the events that have waited for it."""
        progress = self._cameras[request.camera]
        if progress.known >= progress.next:
            self._miss(request.camera, progress, progress.known - progress.next + 1)
            progress.next = progress.known + 1
        progress.after = 0
        held, progress.held = progress.held, deque()
        for head, line in held:
            yield from self._place(head, line)

    def _place(self, head: _Head, line: bytes) -> Iterator[bytes]:
        """Deliver an event that is next, hold one that came too early, drop one that came again."""
        progress = self._cameras.get(head.camera)
        if progress is None:
            progress = _Progress(1, after=self._mark) if self.beaten else _Progress(head.seq)
            self._cameras[head.camera] = progress
        run = _run_of(head)
        if head.seq < progress.next:
            if run in self._runs or not self._runs:
                self._runs.add(run)
                self.duplicates += 1
                return
            self._begin_anew(progress)  # another run counts from where the log was, or from 1
        self._runs.add(run)
        if head.seq > progress.next or progress.held:
            progress.known = max(progress.known, head.seq - 1)
            progress.held.append((head, line))
            return
        progress.next = head.seq + 1
        if head.type.startswith(self._kind):
            yield line

    def _hear(self, beat: _Beat) -> None:
        """A heartbeat says which numbers have been sent before it."""
        logged = beat.logged or 0
        if logged < self._mark:  # another log
            for progress in self._cameras.values():
                progress.after = 0
            self._mark = 0
        for camera, last in zip(beat.cameras, beat.last_seqs, strict=False):
            if self._camera is not None and camera != self._camera:
                continue
            if camera not in self._cameras:
                begin = 1 if self.beaten else last + 1
                self._cameras[camera] = _Progress(begin, after=self._mark)
            progress = self._cameras[camera]
            if last < progress.next - 1:
                self._begin_anew(progress)
            if last >= progress.next:
                progress.known = max(progress.known, last)
        self.replay = beat.replay
        self.beaten = True
        self._mark = logged

    def _miss(self, camera: str, progress: _Progress, count: int) -> None:
        if count and not progress.after:  # else they were before our time
            self.missed += count
            log.warning("%d events of %s are lost", count, camera or "the host")

    def _begin_anew(self, progress: _Progress) -> None:
        progress.next, progress.known, progress.after = 1, 0, self._mark
        progress.held.clear()


def _run_of(head: _Head) -> str:
    return head.id.partition("-")[0]
