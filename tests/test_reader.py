"""Every decision of the source reader: scripted sources, and a clock that only the test moves."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction

import pytest

from streamer.errors import ConfigError, SourceError
from streamer.planes import Planes
from streamer.sources.base import FrameTimes, SourceFrame, SourceInfo
from streamer.sources.mediaclock import NS
from streamer.sources.reader import Backoff, Down, Ended, Event, Failed, SourceReader, Up
from streamer.sources.restamp import RestampedFrame, Splice

FPS = 25
INFO = SourceInfo(width=16, height=8, fps_declared=float(FPS), codec="h264", live=True)
FILE = replace(INFO, live=False)
BROKEN = SourceError("cam: broken", reason="io")
REFUSED = SourceError("cam: refused", reason="refused")


class Clock:
    """Seconds that pass only when somebody waits or a source takes its time."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.waits: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        self.now_s += seconds
        return False


@dataclass(frozen=True)
class ScriptedFrame:
    times: FrameTimes
    width: int = 16
    height: int = 8

    def write_to(self, planes: Planes) -> None:
        planes.fill(self.times.pts % 200)


@dataclass
class Scripted:
    """A source that delivers so many frames, 40 ms apart, and then ends or breaks."""

    clock: Clock
    frames_to_come: int = 0
    info: SourceInfo = INFO
    open_error: SourceError | None = None
    read_error: SourceError | None = None
    first_pts: int = 0
    time_base: Fraction = Fraction(1, 1000)
    closed: int = field(default=0)

    def open(self) -> SourceInfo:
        if self.open_error is not None:
            raise self.open_error
        return self.info

    def frames(self) -> Iterator[SourceFrame]:
        for index in range(self.frames_to_come):
            self.clock.now_s += 1 / FPS
            pts = self.first_pts + round(index / FPS / self.time_base)
            now_ns = round(self.clock.now_s * NS)
            yield ScriptedFrame(FrameTimes(pts, self.time_base, now_ns, now_ns))
        if self.read_error is not None:
            raise self.read_error

    def close(self) -> None:
        self.closed += 1


class Rig:
    """A reader over a script of sources; the last is repeated for ever."""

    def __init__(self, clock: Clock, *script: Scripted, **arguments: object) -> None:
        self.clock = clock
        self.script = list(script)
        self.made: list[Scripted] = []
        self.reader = SourceReader(
            self._make,
            clock=clock,
            wait=clock.wait,
            rng=random.Random(1),
            **arguments,  # type: ignore[arg-type]
        )

    def _make(self) -> Scripted:
        source = self.script.pop(0) if len(self.script) > 1 else replace(self.script[0])
        self.made.append(source)
        return source

    def run(self, *, most: int = 1000) -> list[Event]:
        events = []
        for event in self.reader.events():
            events.append(event)
            if len(events) == most:
                self.reader.stop()
        return events


def story(events: list[Event]) -> str:
    """One letter for each event: U(p), f(rame), D(own), E(nded), F(ailed)."""
    return "".join("f" if isinstance(e, RestampedFrame) else type(e).__name__[0] for e in events)


def times(events: list[Event]) -> list[FrameTimes]:
    return [event.times for event in events if isinstance(event, RestampedFrame)]


@pytest.fixture
def clock() -> Clock:
    return Clock()


class TestFiles:
    def test_file_ends_and_is_not_opened_again(self, clock: Clock) -> None:
        rig = Rig(clock, Scripted(clock, 3, FILE))
        events = rig.run()
        assert story(events) == "UfffE"
        assert events[0] == Up(FILE, 1)
        assert events[-1] == Ended()
        assert rig.reader.state == "ended"
        assert clock.waits == []
        assert [source.closed for source in rig.made] == [1]

    def test_file_that_breaks_has_failed_for_its_frames_were_seen(self, clock: Clock) -> None:
        rig = Rig(clock, Scripted(clock, 2, FILE, read_error=BROKEN))
        events = rig.run()
        assert story(events) == "UffF"
        assert events[-1] == Failed("io", "cam: broken")
        assert rig.reader.state == "failed"

    def test_file_that_did_not_open_is_tried_again(self, clock: Clock) -> None:
        rig = Rig(clock, Scripted(clock, open_error=REFUSED), Scripted(clock, 1, FILE))
        assert story(rig.run()) == "DUfE"

    def test_loop_goes_on_by_one_frame(self, clock: Clock) -> None:
        rig = Rig(clock, Scripted(clock, 3, FILE, first_pts=500), loop=True)
        events = rig.run(most=9)
        assert story(events) == "UfffUfffU"
        assert [t.pts for t in times(events)] == [500, 540, 580, 620, 660, 700]
        assert [t.discontinuity for t in times(events)] == [False] * 3 + [True, False, False]
        assert clock.waits == []

    def test_loop_over_nothing_ends(self, clock: Clock) -> None:
        assert story(Rig(clock, Scripted(clock, 0, FILE), loop=True).run()) == "UE"

    def test_live_file_with_an_end_ends(self, clock: Clock) -> None:
        paced = replace(INFO, frames_declared=2)
        assert story(Rig(clock, Scripted(clock, 2, paced)).run()) == "UffE"

    def test_the_caller_may_know_better(self, clock: Clock) -> None:
        assert story(Rig(clock, Scripted(clock, 2), reconnect=False).run()) == "UffE"
        assert story(Rig(clock, Scripted(clock, 2, FILE), reconnect=True).run(most=5)) == "UffDU"


class TestCameras:
    def test_end_and_error_are_downs_and_it_comes_back(self, clock: Clock) -> None:
        rig = Rig(
            clock, Scripted(clock, 2), Scripted(clock, 1, read_error=BROKEN), Scripted(clock, 9)
        )
        events = rig.run(most=9)
        assert story(events) == "UffDUfDUf"
        downs = [event for event in events if isinstance(event, Down)]
        assert [(d.reason, d.message) for d in downs] == [
            ("ended", "the stream ended"),
            ("io", "cam: broken"),
        ]
        assert [event.connection for event in events if isinstance(event, Up)] == [1, 2, 3]
        assert [d.retry_in_s for d in downs] == clock.waits
        statistics = rig.reader.statistics()
        assert (statistics.frames, statistics.connections) == (4, 3)
        assert statistics.downs == {"ended": 1, "io": 1}
        assert [source.closed for source in rig.made[:2]] == [1, 1]

    def test_permanent_error_is_the_end(self, clock: Clock) -> None:
        wrong = SourceError("cam: 401", reason="auth", permanent=True)
        rig = Rig(clock, Scripted(clock, 1), Scripted(clock, open_error=wrong))
        events = rig.run()
        assert story(events) == "UfDF"
        assert events[-1] == Failed("auth", "cam: 401")
        assert rig.made[-1].closed == 1

    def test_gives_up_after_so_many_failures(self, clock: Clock) -> None:
        events = Rig(clock, Scripted(clock, open_error=REFUSED), max_failures=3).run()
        assert story(events) == "DDF"
        assert events[-1] == Failed("refused", "cam: refused (gave up after 3 tries)")

    def test_wrong_configuration_is_the_callers(self, clock: Clock) -> None:
        def make() -> Scripted:
            raise ConfigError("cam: unknown scheme")

        with pytest.raises(ConfigError, match="cam: unknown scheme"):
            list(SourceReader(make).events())


class TestBackoff:
    def test_doubles_to_the_cap_and_is_jittered(self, clock: Clock) -> None:
        Rig(clock, Scripted(clock, open_error=REFUSED), backoff_s=(0.5, 4.0)).run(most=8)
        assert len(clock.waits) == 8
        for waited, full in zip(clock.waits, [0.5, 1, 2, 4, 4, 4, 4, 4], strict=True):
            assert full / 2 <= waited <= full
        assert len({w / f for w, f in zip(clock.waits[3:], [4] * 5, strict=True)}) == 5

    def test_two_cameras_do_not_come_back_together(self) -> None:
        backoff = Backoff(0.5, 30.0)
        assert backoff.delay_s(1, random.Random(1)) != backoff.delay_s(1, random.Random(2))

    def test_many_failures_do_not_overflow(self) -> None:
        assert Backoff(0.5, 30.0).delay_s(100_000, random.Random(1)) <= 30.0

    def test_resets_after_stable_operation(self, clock: Clock) -> None:
        refused = [Scripted(clock, open_error=REFUSED) for _ in range(4)]
        stable = Scripted(clock, 11 * FPS)  # eleven seconds of frames
        rig = Rig(clock, *refused, stable, Scripted(clock, open_error=REFUSED), stable_s=10.0)
        rig.run(most=4 + 1 + 11 * FPS + 1)
        assert clock.waits[3] >= 2.0
        assert clock.waits[4] <= 0.5

    def test_does_not_reset_after_a_flash(self, clock: Clock) -> None:
        refused = [Scripted(clock, open_error=REFUSED) for _ in range(4)]
        rig = Rig(clock, *refused, Scripted(clock, 3), stable_s=10.0)
        rig.run(most=4 + 1 + 3 + 1)
        assert clock.waits[4] >= 4.0

    def test_time_without_a_frame_is_not_stable(self, clock: Clock) -> None:
        slow = SlowToBreak(clock, read_error=BROKEN)
        rig = Rig(clock, Scripted(clock, open_error=REFUSED), slow, stable_s=10.0)
        rig.run(most=3)
        assert clock.waits[1] >= 0.5

    @pytest.mark.parametrize("backoff_s", [(0.0, 1.0), (2.0, 1.0), (-1.0, 1.0)])
    def test_must_make_sense(self, backoff_s: tuple[float, float]) -> None:
        with pytest.raises(ConfigError, match=r"backoff_s must be \(first, cap\) with 0 < first"):
            SourceReader(lambda: Scripted(Clock()), backoff_s=backoff_s)


@dataclass
class SlowToBreak(Scripted):
    """A source that opens, says nothing for a minute, and breaks."""

    def frames(self) -> Iterator[SourceFrame]:
        self.clock.now_s += 60
        yield from super().frames()


class TestMediaClock:
    def test_goes_on_by_the_time_that_passed(self, clock: Clock) -> None:
        rig = Rig(clock, Scripted(clock, 3, first_pts=90), Scripted(clock, 3, first_pts=7_000_000))
        out = times(rig.run(most=9))
        passed_ms = round((out[3].receive_ns - out[2].receive_ns) / 1e6)
        assert passed_ms > 250
        assert [t.pts for t in out[:3]] == [90, 130, 170]
        assert out[3].pts == pytest.approx(170 + passed_ms, abs=1)
        assert [t.pts - out[3].pts for t in out[3:]] == [0, 40, 80]
        assert [t.discontinuity for t in out] == [False, False, False, True, False, False]

    def test_never_goes_back_when_the_pts_begin_anew(self, clock: Clock) -> None:
        rig = Rig(clock, *(Scripted(clock, 3, first_pts=p) for p in (9000, 0, 500, -800, 10**12)))
        pts = [t.pts for t in times(rig.run(most=25))]
        assert len(pts) == 15
        assert pts == sorted(set(pts))

    def test_time_base_of_the_first_connection_is_kept(self, clock: Clock) -> None:
        finer = Scripted(clock, 3, time_base=Fraction(1, 90_000))
        out = times(Rig(clock, Scripted(clock, 2), finer).run(most=8))
        assert {t.time_base for t in out} == {Fraction(1, 1000)}
        assert [t.pts - out[2].pts for t in out[2:]] == [0, 40, 80]

    def test_coarser_clock_still_rises(self) -> None:
        splice = Splice()
        splice.connect(FILE)
        coarse, fine = Fraction(1, 25), Fraction(1, 1000)
        first = splice.restamp(FrameTimes(0, coarse, 0, 0))
        splice.connect(FILE)
        rest = [splice.restamp(FrameTimes(pts, fine, 0, 0)) for pts in (0, 3, 40)]
        assert [first.pts, *(t.pts for t in rest)] == [0, 1, 2, 3]

    def test_frames_keep_their_pictures(self, clock: Clock) -> None:
        frame = next(e for e in Rig(clock, Scripted(clock, 1)).run(most=2) if story([e]) == "f")
        assert isinstance(frame, RestampedFrame)
        planes = Planes.empty(frame.width, frame.height)
        frame.write_to(planes)
        assert planes.y.max() == 0


class TestState:
    def test_each_state_is_seen(self, clock: Clock) -> None:
        seen: list[str] = []

        class Watched(Scripted):
            def open(self) -> SourceInfo:
                seen.append(rig.reader.state)
                self.clock.now_s += 15.1  # 5 s to open and 10 s to the first frame are over
                seen.append(rig.reader.state)
                return INFO

            def frames(self) -> Iterator[SourceFrame]:
                yield from super().frames()
                seen.append(rig.reader.state)
                self.clock.now_s += 3.1
                seen.append(rig.reader.state)
                raise BROKEN

        rig = Rig(clock, Watched(clock, 1), Scripted(clock, 1, FILE))
        for event in rig.reader.events():
            if isinstance(event, Down):
                seen.append(rig.reader.state)
        seen.append(rig.reader.state)
        assert seen == ["connecting", "stalled", "live", "stalled", "backing_off", "ended"]

    def test_slow_consumer_is_not_the_sources_fault(self, clock: Clock) -> None:
        rig = Rig(clock, Scripted(clock, 2))
        events = rig.reader.events()
        for _ in range(2):
            next(events)
            clock.now_s += 100
        assert rig.reader.state == "live"


class TestStop:
    def test_ends_between_frames_and_says_nothing_more(self, clock: Clock) -> None:
        rig = Rig(clock, Scripted(clock, 100))
        assert story(rig.run(most=3)) == "Uff"
        assert rig.reader.state == "ended"
        assert rig.made[0].closed >= 1

    def test_before_the_start_opens_nothing(self, clock: Clock) -> None:
        rig = Rig(clock, Scripted(clock, 1))
        rig.reader.stop()
        assert list(rig.reader.events()) == []
        assert rig.made == []

    def test_interrupts_a_long_pause(self, clock: Clock) -> None:
        reader = SourceReader(
            lambda: Scripted(clock, open_error=REFUSED), backoff_s=(3600.0, 3600.0)
        )
        events = reader.events()
        assert isinstance(next(events), Down)
        rest: list[Event] = []
        thread = threading.Thread(target=lambda: rest.extend(events))
        thread.start()
        reader.stop()
        thread.join(timeout=5)
        assert not thread.is_alive()
        assert rest == []

    def test_closes_the_source_that_blocks(self, clock: Clock) -> None:
        blocked = Blocking(clock)
        reader = SourceReader(lambda: blocked)
        events: list[Event] = []
        thread = threading.Thread(target=lambda: events.extend(reader.events()))
        thread.start()
        assert blocked.entered.wait(5)
        reader.stop()
        thread.join(timeout=5)
        assert not thread.is_alive()
        assert story(events) == "U"

    def test_abandoned_iteration_closes_the_source(self, clock: Clock) -> None:
        rig = Rig(clock, Scripted(clock, 3))
        events = rig.reader.events()
        next(events)
        next(events)
        events.close()  # type: ignore[attr-defined]
        assert rig.made[0].closed == 1


@dataclass
class Blocking(Scripted):
    """A source whose read blocks until it is closed."""

    def __post_init__(self) -> None:
        self.entered, self.released = threading.Event(), threading.Event()

    def frames(self) -> Iterator[SourceFrame]:
        self.entered.set()
        self.released.wait()
        return iter(())

    def close(self) -> None:
        self.released.set()
