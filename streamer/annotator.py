"""The stage base that looks at some frames of all cameras beside `infer`, and says what it saw.

A subclass is given each frame that it wants, with its tracks where it needs them, and answers with
an Annotation. Every other frame is told as skipped, so that nobody waits for it. Knows no network.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from streamer.errors import StaleFrame
from streamer.frames import PoolReader
from streamer.join import Join, Joined
from streamer.messages import (
    Annotation,
    EndOfStream,
    Frame,
    FrameInfo,
    Happening,
    PeerDown,
    Tracks,
)
from streamer.planes import Planes
from streamer.queues import Received
from streamer.stage import Stage, StageStart
from streamer.unfinished import Left, Unfinished

log = logging.getLogger(__name__)

TRACKS_S = 0.3
"""Live: so long a frame is kept for its tracks."""
NEVER = 1 << 62
"""A frame number that no frame has."""
STALE_S = 1.0
"""Live: an older frame is not worth looking at."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One frame that is to be looked at."""

    info: FrameInfo
    planes: Planes
    """In shared memory; they may not be kept."""
    tracks: Tracks | None
    """None where there are none, or they are late."""
    anew: bool
    """It does not follow the frame that was looked at before it."""


_Looked = tuple[Received, bool]
"""A frame that waits, and whether it follows the one before it."""


class Annotator(Stage):
    """Serves all cameras, a frame of each at a time."""

    needs_tracks = False
    """True waits for the tracks of each wanted frame."""

    def __init__(self, start: StageStart) -> None:
        super().__init__(start)
        self._reader = PoolReader(start.supervisor_pid)
        self.unfinished = Unfinished(self.ledger(), list(start.config.cameras))
        """Whatever begins is to be kept here until it ends."""
        self._joins: dict[str, Join[_Looked, Tracks]] = {}
        for camera in start.config.cameras:
            track = f"track.{camera}"
            kinds = [track] if track in start.spec.producers and self.needs_tracks else []
            self._joins[camera] = Join(kinds, TRACKS_S if start.live[camera] else None)
        self._last_seq = dict.fromkeys(start.config.cameras, -1)
        self._epochs: dict[str, int] = {}
        self._missed: set[str] = set()
        """Cameras whose first frame after a jump could not be looked at."""
        self._held: dict[str, deque[tuple[int, Received]]] = {
            camera: deque() for camera in start.config.cameras
        }
        """Tracks of frames that are not looked at yet; our successor would need them."""
        self._ending: dict[str, Received | None] = {}
        """Cameras whose frames have all come, with the item that said so."""
        self._open = set(start.config.cameras)

    # What a subclass says.

    def wants(self, info: FrameInfo, *, anew: bool) -> bool:
        """True if this frame is to be looked at; called once for each, in order.

        Args:
            info: of the frame.
            anew: it does not follow the frame before it.
        """
        raise NotImplementedError

    def look(self, frames: Sequence[Wanted]) -> list[Annotation]:
        """Look at frames of different cameras, one each; returns what was seen in each."""
        raise NotImplementedError

    def end(self, camera: str) -> tuple[Happening, ...]:
        """This camera has ended; returns what follows from that."""
        del camera
        return ()

    def broken_off(self, left: Left) -> Happening:
        """The end of what a process before us has begun."""
        raise NotImplementedError

    # The stage.

    def on_item(self, item: Received) -> None:
        """Take in a frame or the tracks of one."""
        body = item.body
        camera = item.producer.partition(".")[2]
        if isinstance(body, Frame):
            self._take_frame(item, body)
        elif isinstance(body, EndOfStream) and item.producer == f"decode.{camera}":
            self._ending[camera] = item
        elif isinstance(body, Tracks) and self.needs_tracks:
            self._take_tracks(item, body)
        else:
            if isinstance(body, EndOfStream) and self.needs_tracks:
                self._joins[camera].no_more_results(item.producer, "ended")
            self.inbox.done(item.producer, item.number)
        self.tick_at = time.monotonic()

    def on_peer_down(self, down: PeerDown) -> None:
        """What a dead neighbour would have sent never comes."""
        kind, _, camera = down.stage.partition(".")
        if down.final and kind == "decode":
            self._ending.setdefault(camera, None)
        elif down.final and kind == "track" and self.needs_tracks:
            self._joins[camera].no_more_results(down.stage, "failed")
        self.tick_at = time.monotonic()

    def on_tick(self) -> None:
        """Look at one frame of each camera that has one, and end those that have no more."""
        now = time.monotonic()
        ready = [joined for join in self._joins.values() if (joined := join.next(now)) is not None]
        if ready:
            self._look(ready)
        for camera, join in self._joins.items():
            self._give_back_tracks(camera)
            if camera in self._ending and not len(join):
                self._end(camera)
        due_s = min(join.due_s for join in self._joins.values())
        self.tick_at = now if ready else due_s

    def finished(self) -> bool:
        """All cameras have ended, and nobody has anything to say about their frames."""
        heard = all(join.complete for join in self._joins.values())
        return self.stopping or (heard and not self._open and not any(self._held.values()))

    def _take_frame(self, item: Received, frame: Frame) -> None:
        info = frame.info
        if info.seq <= self._last_seq[info.camera]:
            self.inbox.done(item.producer, item.number)  # delivered twice after a crash
            return
        self._last_seq[info.camera] = info.seq
        self.inbox.next_seq[item.producer] = info.seq + 1
        anew = info.discontinuity or self._epochs.get(info.camera) != info.epoch
        self._epochs[info.camera] = info.epoch
        if self.wants(info, anew=anew):
            self._joins[info.camera].add(info.seq, (item, anew), time.monotonic())
        else:
            if anew:
                self._missed.add(info.camera)
            self._catch_up(info.camera)
            self._skip(item, info, "cadence")

    def _catch_up(self, camera: str) -> None:
        """Track takes a word of a later frame for the end of all before it."""
        join = self._joins[camera]
        while f"track.{camera}" in self.outbox.consumers:
            joined = join.next(time.monotonic())
            if joined is None:
                return
            self._look([joined])

    def _take_tracks(self, item: Received, tracks: Tracks) -> None:
        info = tracks.info
        join = self._joins[info.camera]
        if tracks.detections.skipped:
            join.skip(item.producer, info.seq, tracks.detections.skipped)
        else:
            join.annotate(item.producer, info.seq, tracks)
        self._held[info.camera].append((info.seq, item))

    def _give_back_tracks(self, camera: str) -> None:
        """Of the frames that were looked at, or never will be."""
        oldest = self._joins[camera].oldest_seq
        if oldest is None:
            over = camera in self._ending or camera not in self._open
            oldest = NEVER if over else self._last_seq[camera] + 1
        held = self._held[camera]
        while held and held[0][0] < oldest:
            _, item = held.popleft()
            self.inbox.done(item.producer, item.number)

    def _look(self, ready: Sequence[Joined[_Looked, Tracks]]) -> None:
        wanted: list[tuple[Received, Wanted]] = []
        for joined in ready:
            item, anew = joined.item
            frame = item.body
            assert isinstance(frame, Frame)
            anew = anew or frame.info.camera in self._missed
            try:
                planes = self._planes(item, frame)
            except StaleFrame as error:
                if anew:
                    self._missed.add(frame.info.camera)
                self._give_up(item, frame.info, error)
                continue
            self._missed.discard(frame.info.camera)
            tracks = next(iter(joined.results.values()), None)
            wanted.append((item, Wanted(frame.info, planes, tracks, anew)))
        annotations = self.look([each for _, each in wanted]) if wanted else []
        for (item, _), annotation in zip(wanted, annotations, strict=True):
            self._answer(item, annotation)

    def _answer(self, item: Received, annotation: Annotation) -> None:
        info = annotation.info
        assert isinstance(item.body, Frame)
        try:
            self._reader.check(item.body, item.inline)
        except StaleFrame as error:
            # What has begun or ended by it has; a map of two pictures would be wrong everywhere.
            log.warning("%s: overwritten while it was looked at: %s", info.camera, error)
            self.dropped[info.camera][f"{self.name}_stale"] += 1
            annotation = msgspec.structs.replace(annotation, label_map=None)
        self.counters["frames"] += 1
        left = self.unfinished.answer(info.camera, info.seq, info.pts_ns)
        if left:
            ended = tuple(self.broken_off(each) for each in left)
            annotation = msgspec.structs.replace(
                annotation, happenings=(*ended, *annotation.happenings)
            )
        self.forward(item, annotation, to=self._consumers(info.camera))

    def _planes(self, item: Received, frame: Frame) -> Planes:
        age_s = (time.monotonic_ns() - frame.info.receive_ns) / 1e9
        if self.start.live[frame.info.camera] and age_s > STALE_S:
            raise StaleFrame("too old")
        return self._reader.planes(frame, item.inline)

    def _give_up(self, item: Received, info: FrameInfo, error: StaleFrame) -> None:
        self.dropped[info.camera][f"{self.name}_stale"] += 1
        self._skip(item, info, str(error))

    def _skip(self, item: Received, info: FrameInfo, cause: str) -> None:
        """Only who joins frames needs to know."""
        joiners = [name for name in self._consumers(info.camera) if name != "publish"]
        if joiners:
            self.forward(item, Annotation(info, skipped=cause), to=joiners)
        else:
            self.inbox.done(item.producer, item.number)

    def _end(self, camera: str) -> None:
        item = self._ending.pop(camera)
        self._open.discard(camera)
        left = tuple(self.broken_off(each) for each in self.unfinished.drop(camera))
        end = EndOfStream(camera, (*left, *self.end(camera)))
        if item is not None:
            self.forward(item, end, to=self._consumers(camera))
        else:
            for name in self._consumers(camera):
                self.outbox.send(name, end)

    def _consumers(self, camera: str) -> list[str]:
        wanted = (f"encode.{camera}", f"track.{camera}", "publish")
        return [name for name in wanted if name in self.outbox.consumers]


class Cadence:
    """Picks frames by media time, so that cameras of any rate are looked at alike.

    Args:
        per_s: frames a second of media time.
    """

    def __init__(self, per_s: float) -> None:
        self._period_ns = round(1e9 / per_s)
        self._due_ns: dict[str, int] = {}

    def takes(self, info: FrameInfo, *, anew: bool) -> bool:
        """True if this frame of its camera is due; arguments as for Annotator.wants."""
        now_ns = info.pts_ns
        due_ns = self._due_ns.get(info.camera)
        if due_ns is None or anew or abs(now_ns - due_ns) > 10 * self._period_ns:
            due_ns = now_ns
        if now_ns < due_ns:
            self._due_ns[info.camera] = due_ns
            return False
        # On a grid, so that the mean rate is right where frames don't fall on it.
        self._due_ns[info.camera] = due_ns + self._period_ns
        return True
