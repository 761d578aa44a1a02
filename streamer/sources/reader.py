"""Turn one source that comes and goes into one flow of frames and news; in the decode process.

Knows no library and no queue: it opens what `make_source` gives, and opens it again with growing
pauses. One thread iterates; `stop`, `state` and `statistics` may be used from others.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from streamer.errors import ConfigError, SourceError
from streamer.sources.base import Source, SourceInfo
from streamer.sources.restamp import RestampedFrame, Splice

State = Literal["connecting", "live", "stalled", "backing_off", "ended", "failed"]


@dataclass(frozen=True, slots=True)
class Up:
    """The source is open; frames follow."""

    info: SourceInfo
    connection: int
    """1 for the first; beyond it, this is a reconnection."""


@dataclass(frozen=True, slots=True)
class Down:
    """The source is gone or did not open; it will be tried again."""

    reason: str
    message: str
    retry_in_s: float


@dataclass(frozen=True, slots=True)
class Ended:
    """The file is over; nothing follows."""


@dataclass(frozen=True, slots=True)
class Failed:
    """Trying again can't help, or was tried often enough; nothing follows."""

    reason: str
    message: str


Event = RestampedFrame | Up | Down | Ended | Failed


@dataclass(frozen=True, slots=True)
class ReaderStatistics:
    """What a reader saw so far."""

    frames: int
    connections: int
    downs: dict[str, int]
    """How often the source went down or did not open, by reason."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before the n-th try: first_s doubled each time up to cap_s, then jittered.

    The jitter takes off up to half, so that cameras behind one switch don't return all at once.
    """

    first_s: float
    cap_s: float

    def __post_init__(self) -> None:
        if not 0 < self.first_s <= self.cap_s:
            raise ConfigError(
                f"backoff_s must be (first, cap) with 0 < first <= cap, "
                f"got ({self.first_s}, {self.cap_s})"
            )

    def delay_s(self, failures: int, rng: random.Random) -> float:
        """Wait so long after so many failures in a row, at least one."""
        doublings = min(failures - 1, 60)
        return min(self.cap_s, self.first_s * 2.0**doublings) * rng.uniform(0.5, 1.0)


class SourceReader:
    """Reads one source for ever, or to its end.

    A source that has an end, such as a file, and breaks after its first frame has failed: to begin
    again would show its frames twice. The deadlines of a blocked open or read are the source's own
    (SourceOptions); those given here only say from when on `state` calls it stalled.
    """

    def __init__(
        self,
        make_source: Callable[[], Source],
        *,
        open_deadline_s: float = 5.0,
        first_frame_deadline_s: float = 10.0,
        frame_deadline_s: float = 3.0,
        backoff_s: tuple[float, float] = (0.5, 30.0),
        stable_s: float = 10.0,
        max_failures: int | None = None,
        reconnect: bool | None = None,
        loop: bool = False,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        """Prepare; nothing is opened yet.

        Args:
            make_source: called before each try.
            open_deadline_s, first_frame_deadline_s, frame_deadline_s: see above.
            backoff_s: pause after the first failure, and the longest.
            stable_s: after so long with frames, a failure counts as the first again.
            max_failures: give up after so many in a row; None never does.
            reconnect: True opens a source again that ended; False takes its end for the end. None
                takes it for the end if the source is not live, or says how many frames it has.
            loop: begin a file again when it ends.
            rng: of the jitter.
            clock: monotonic seconds.
            wait: waits so many seconds, or less if stopped; returns True if stopped.
        """
        self._make_source = make_source
        self._connect_deadline_s = open_deadline_s + first_frame_deadline_s
        self._frame_deadline_s = frame_deadline_s
        self._backoff = Backoff(*backoff_s)
        self._stable_s = stable_s
        self._max_failures = max_failures
        self._reconnect = reconnect
        self._loop = loop
        self._rng = rng or random.Random()  # noqa: S311 - jitter needs no cryptography
        self._clock = clock
        self._stopped = threading.Event()
        self._wait = wait or self._stopped.wait
        self._source: Source | None = None
        self._splice = Splice()
        self._state: State = "connecting"
        self._endless = True
        self._asked_at: float | None = None  # since when we wait for the source, if we do
        self._frames = self._connections = 0
        self._downs: Counter[str] = Counter()

    @property
    def state(self) -> State:
        """What the source is doing now; "stalled" is seen while the reading thread still waits."""
        asked_at = self._asked_at
        deadline_s = self._frame_deadline_s if self._state == "live" else self._connect_deadline_s
        if asked_at is not None and self._clock() - asked_at > deadline_s:
            return "stalled"
        return self._state

    def statistics(self) -> ReaderStatistics:
        """Count what was seen so far."""
        return ReaderStatistics(self._frames, self._connections, dict(self._downs))

    def stop(self) -> None:
        """End the iteration; a pause ends at once, a blocked source by its own deadline."""
        self._stopped.set()
        source = self._source
        if source is not None:
            source.close()

    def events(self) -> Iterator[Event]:
        """Yield frames and news until the source ends or fails, or `stop` is called.

        A frame is valid until the next event is asked for.

        Raises:
            ConfigError: make_source refused its configuration.
        """
        failures = 0
        while not self._stopped.is_set():
            frames_before, began_at = self._frames, self._clock()
            error: SourceError | None = None
            try:
                yield from self._one_connection()
            except SourceError as caught:
                error = caught
            finally:
                self._let_go()
            if self._stopped.is_set():
                break
            delivered = self._frames > frames_before
            ends = self._outcome(error, delivered)
            if ends is not None:
                yield ends
                return
            if error is None and not self._endless:
                continue  # once more from the start
            if delivered and self._clock() - began_at >= self._stable_s:
                failures = 0
            failures += 1
            down = self._down(error, failures)
            yield down
            if isinstance(down, Failed) or self._wait(down.retry_in_s):
                break
        if self._state != "failed":
            self._state = "ended"

    def _one_connection(self) -> Iterator[Event]:
        self._state = "connecting"
        self._asked_at = self._clock()
        self._endless = True  # until it says otherwise, it may come back
        self._source = source = self._make_source()
        info = source.open()
        said = info.live and info.frames_declared is None
        self._endless = said if self._reconnect is None else self._reconnect
        self._connections += 1
        self._splice.connect(info)
        self._asked_at = None
        yield Up(info, self._connections)
        frames = iter(source.frames())
        while not self._stopped.is_set():
            self._asked_at = self._clock()
            frame = next(frames, None)
            self._asked_at = None  # from here on it is the consumer who takes time
            if frame is None:
                return
            self._state = "live"
            self._frames += 1
            yield RestampedFrame(frame, self._splice.restamp(frame.times))

    def _outcome(self, error: SourceError | None, delivered: bool) -> Ended | Failed | None:
        """Say how it ends, or None if the source is to be opened again."""
        if error is None:
            if self._endless or (self._loop and delivered):
                return None
            self._state = "ended"
            return Ended()
        if error.permanent or (delivered and not self._endless):
            return self._failed(error.reason, str(error))
        return None

    def _down(self, error: SourceError | None, failures: int) -> Down | Failed:
        reason = error.reason if error else "ended"
        message = str(error) if error else "the stream ended"
        self._downs[reason] += 1
        if self._max_failures is not None and failures >= self._max_failures:
            return self._failed(reason, f"{message} (gave up after {failures} tries)")
        self._state = "backing_off"
        return Down(reason, message, self._backoff.delay_s(failures, self._rng))

    def _failed(self, reason: str, message: str) -> Failed:
        self._state = "failed"
        return Failed(reason, message)

    def _let_go(self) -> None:
        self._asked_at = None
        source, self._source = self._source, None
        if source is not None:
            source.close()
