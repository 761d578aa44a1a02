"""Turn events of the log into rule.fired events, clips and snapshots; runs in the rules process.

Reads the log like any other subscriber and has what it makes published like any other stage, so
that it is numbered and logged. Rules wait for no event of its own making: there is no loop.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

from streamer.errors import SinkError
from streamer.eventlog import Cursor, LogReader, log_path
from streamer.events import utc
from streamer.messages import Fields, Notice
from streamer.rules.engine import Engine, Firing, text_of
from streamer.rules.jobs import Checkpoint, Job, jobs_of, load, save
from streamer.rules.seen import Seen, read_seen
from streamer.sinks.clip import Clip, Moment, Snapshot, cut_clip, take_snapshot
from streamer.stage import Stage, StageStart

log = logging.getLogger(__name__)

_ROWS = 500
"""Of the log in one turn."""
_LOOK_S = 0.05
"""How often the log is looked at."""
_LATE_S = 1.0
"""Live: an event is in the log, and a frame on the disk, so long after its capture."""
_RETRY_S = 0.5
_PATIENCE_S = 10.0
"""How long a recording may be behind before a clip is cut from what there is."""
_QUIET_S = 0.3
"""At the end of a run: no more events are on their way when there was none for so long."""
_BEGIN_S = 5.0
"""How far back rules look that were never run before: the begin of this run."""
_HEARTBEAT = "heartbeat"

Cut = Clip | Snapshot | Exception | None


class Rules(Stage):
    """All rules of a run."""

    def __init__(self, start: StageStart) -> None:
        super().__init__(start)
        path = log_path(start.config, start.live)
        assert path is not None, "the configuration has rules, so it keeps a log"
        self._reader = LogReader(path)
        self._file = path.with_name(f"{path.name}.rules")
        self._cursor = Cursor(path, "rules")
        self._checkpoint = Checkpoint()
        self._engine = Engine(start.config.rules, start.live, self._checkpoint.memory)
        self._saved_at = 0.0
        self._told: set[tuple[str, str]] = set()
        """Firings that are in the log already, by rule and cause."""
        self._made: set[tuple[str, str, str]] = set()
        self._cutter = Cutter(self.wake)
        self._cutting: Job | None = None
        self._retry_at: dict[tuple[str, str, str], float] = {}
        self._final_at: dict[tuple[str, str, str], float] = {}
        self._recorded: set[str] = set()
        """Cameras that record no more."""
        self._draining = False
        self._quiet_since = float("inf")

    def on_open(self) -> None:
        """Go on where a predecessor stopped; what it has told is not told again."""
        found = load(self._file)
        if found is None:
            since_ns = time.time_ns() - round(_BEGIN_S * 1e9)
            found = Checkpoint(rowid=self._reader.rowid_before(since_ns))
        self._checkpoint = found
        self._engine = Engine(self.config.rules, self.start.live, found.memory)
        found.jobs = [job for job in found.jobs if job.camera in self.config.cameras]
        self._learn_what_was_done()
        self._save()
        self._cutter.start()
        self.tick_at = time.monotonic()

    def on_tick(self) -> None:
        """Read on, and cut what is due."""
        now = time.monotonic()
        rows = 0
        try:
            rows = self._read()
        except SinkError as error:
            log.warning("%s", error)
            now += 1.0  # publish begins another log
        if any(self.start.live.values()):
            self._fire_all(self._engine.at(time.time() - _LATE_S))
        self._cut_next(now)
        if rows or now - self._saved_at > 1.0:
            self._save()
        self.tick_at = now if rows == _ROWS else now + _LOOK_S

    def on_wake(self) -> None:
        """Tell what was cut."""
        while self._cutter.results:
            job, result = self._cutter.results.popleft()
            self._cutting = None
            if isinstance(result, Exception) and not isinstance(result, SinkError):
                raise result
            if result is None:
                self._retry_at[job.key] = time.monotonic() + _RETRY_S
                continue
            self._checkpoint.jobs.remove(job)
            self._retry_at.pop(job.key, None)
            self._final_at.pop(job.key, None)
            self._tell_cut(job, result)
        self.tick_at = time.monotonic()

    def on_stop(self, *, drain: bool) -> None:
        """All streams are over: cut what there is of what is still waited for, and end."""
        super().on_stop(drain=drain)
        if drain and not self._draining:
            self._draining = True
            self._quiet_since = time.monotonic()

    def finished(self) -> bool:
        """Nothing is left to be read or cut."""
        quiet = self._draining and time.monotonic() - self._quiet_since > _QUIET_S
        return self.stopping or (quiet and not self._checkpoint.jobs)

    def on_close(self) -> None:
        """Remember what a successor needs."""
        self._save()
        self._reader.close()

    # Events.

    def _read(self) -> int:
        rows = self._reader.read(self._checkpoint.rowid, limit=_ROWS)
        for row in rows:
            if row.kind != _HEARTBEAT:
                self._quiet_since = time.monotonic()
                event = read_seen(row.line)
                self._note_recording(event)
                self._fire_all(self._engine.take(event))
            self._checkpoint.rowid = row.rowid
        self.counters["backlog"] = self._reader.last_rowid() - self._checkpoint.rowid
        return len(rows)

    def _note_recording(self, event: Seen) -> None:
        if event.type == "recording.ended":
            self._recorded.add(event.camera)
        elif event.type == "recording.started":
            self._recorded.discard(event.camera)

    def _fire_all(self, firings: Iterable[Firing]) -> None:
        for firing in firings:
            rule = self.config.rules[firing.rule]
            if (firing.rule, firing.cause.id) not in self._told:
                self.counters["fired"] += 1
                self._tell(firing)
            waiting = {job.key for job in self._checkpoint.jobs} | self._made
            self._checkpoint.jobs += [
                job for job in jobs_of(rule, firing) if job.key not in waiting
            ]

    def _tell(self, firing: Firing) -> None:
        cause = firing.cause
        rule = self.config.rules[firing.rule]
        fields: Fields = {
            "rule": firing.rule,
            "cause_id": cause.id,
            "cause_type": cause.type,
            "severity": rule.then.severity,
            "text": text_of(rule, firing),
            "count": firing.count,
            "zone": cause.zone,
            "line": cause.line,
            "track_id": cause.track_id,
        }
        self.say(
            Notice("rule.fired", cause.camera, fields, firing.moment_ns, cause.frame, firing.pts_s)
        )

    def _learn_what_was_done(self) -> None:
        """Events of ours that are in the log, but not yet in the checkpoint."""
        for kind in ("rule.fired", "clip.", "snapshot."):
            after = self._checkpoint.rowid
            while rows := self._reader.read(after, limit=_ROWS, kind=kind):
                after = rows[-1].rowid
                for event in (read_seen(row.line) for row in rows):
                    if kind == "rule.fired":
                        self._told.add((event.rule, event.cause_id))
                    else:
                        what = event.what or event.type.partition(".")[0]
                        self._made.add((event.rule, event.cause_id, what))
        jobs = self._checkpoint.jobs
        self._checkpoint.jobs = [job for job in jobs if job.key not in self._made]

    def _save(self) -> None:
        self._saved_at = time.monotonic()
        try:
            save(self._file, self._checkpoint)
            self._cursor.advance(self._checkpoint.rowid)
        except OSError as error:
            log.warning("%s: %s; after a crash a rule may fire again", self._file, error)

    # Clips and snapshots.

    def _cut_next(self, now: float) -> None:
        if self._cutting is not None:
            return
        for job in self._checkpoint.jobs:
            if now < self._retry_at.get(job.key, 0.0) or not self._due(job):
                continue
            final_at = self._final_at.setdefault(job.key, now + _PATIENCE_S)
            final = self._draining or job.camera in self._recorded or now >= final_at
            self._cutting = job
            self._cutter.cut(job, Path(self.config.record_folder(job.camera)), final=final)
            return

    def _due(self, job: Job) -> bool:
        """The end of what is wanted is over, or will never come."""
        if self._draining or job.camera in self._recorded:
            return True
        if self.start.live.get(job.camera, True):
            return time.time() - _LATE_S >= job.moment_ns / 1e9 + job.after_s
        end_s = self._engine.time_of(job.camera, job.moment_ns, job.pts_s) + job.after_s
        return self._engine.clock_s(job.camera) >= end_s

    def _tell_cut(self, job: Job, result: Clip | Snapshot | Exception) -> None:
        fields: Fields = {
            "rule": job.rule, "cause_id": job.cause_id, "severity": job.severity,
        }  # fmt: skip
        if isinstance(result, Exception):
            log.warning("%s", result)
            kind = "clip.failed"
            fields |= {"what": job.what, "message": str(result)}
        elif isinstance(result, Clip):
            kind = "clip.saved"
            fields |= {
                "start_utc": utc(result.start_ns),
                "duration_s": result.duration_s,
                "cause_s": result.moment_s,
                "frames": result.frames,
                "complete": result.complete,
            }
        else:
            kind = "snapshot.saved"
            fields |= {
                "frame_utc": utc(result.frame_ns),
                "width": result.width,
                "height": result.height,
            }
        if not isinstance(result, Exception):
            fields |= {"path": str(result.path), "size_bytes": result.size_bytes}
        self.counters[kind] += 1
        self.say(Notice(kind, job.camera, fields, job.moment_ns, None, job.pts_s))


class Cutter:
    """Cuts one job after the other in a thread of its own, so that the process keeps beating."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self.results: deque[tuple[Job, Cut]] = deque()
        """Of all jobs, in order; None where the recording is not so far."""
        self._wake = wake
        self._jobs: queue.SimpleQueue[tuple[Job, Path, bool]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="cutter", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def cut(self, job: Job, folder: Path, *, final: bool) -> None:
        """Have a job done."""
        self._jobs.put((job, folder, final))

    def _work(self) -> None:
        while True:
            job, folder, final = self._jobs.get()
            self.results.append((job, _cut(job, folder, final=final)))
            self._wake()


def _cut(job: Job, folder: Path, *, final: bool) -> Cut:
    moment, path = Moment(job.moment_ns, job.pts_s), job.path(folder)
    try:
        if job.what == "snapshot":
            return take_snapshot(folder, job.camera, moment, path=path, final=final)
        return cut_clip(
            folder, job.camera, moment, before_s=job.before_s, after_s=job.after_s, path=path,
            final=final,
        )  # fmt: skip
    except Exception as error:  # noqa: BLE001 - the thread's outermost frame; main tells or raises it
        return error


make = Rules
