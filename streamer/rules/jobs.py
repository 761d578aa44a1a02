"""What is still to be cut for rules that have fired, and where it goes; runs in the rules process.

Knows no stage and no library: whoever cuts is given. Jobs are written to disk with what the engine
remembers, so that a clip is made though the process dies before its after-time is over.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from streamer.events import utc
from streamer.rules.engine import Firing, Memory
from streamer.rules.section import RuleConfig, Severity


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One clip or snapshot of one firing."""

    rule: str
    camera: str
    cause_id: str
    severity: Severity
    what: Literal["clip", "snapshot"]
    moment_ns: int
    pts_s: float | None
    before_s: float = 0.0
    after_s: float = 0.0

    @property
    def key(self) -> tuple[str, str, str]:
        """Two jobs of one key are the same."""
        return self.rule, self.cause_id, self.what

    def path(self, folder: Path) -> Path:
        """Where it goes: beside the camera's recordings, named by time and rule."""
        stamp = utc(self.moment_ns)
        day, name = stamp[:10], stamp[:23].replace("-", "").replace(":", "")
        suffix = "mp4" if self.what == "clip" else "jpg"
        file = f"{self.camera}_{name}Z_{self.rule}_{self.cause_id.rpartition('-')[2]}.{suffix}"
        return folder / self.camera / "clips" / day / file


class Checkpoint(msgspec.Struct):
    """Where the rules are in the log, and what they remember there."""

    rowid: int = 0
    memory: Memory = msgspec.field(default_factory=Memory)
    jobs: list[Job] = []


def jobs_of(rule: RuleConfig, firing: Firing) -> Sequence[Job]:
    """What a firing asks to be cut; nothing for an event of the host, which no camera has seen."""
    cause = firing.cause
    if not cause.camera:
        return []

    def job(what: Literal["clip", "snapshot"], before_s: float, after_s: float) -> Job:
        return Job(
            rule=firing.rule,
            camera=cause.camera,
            cause_id=cause.id,
            severity=rule.then.severity,
            what=what,
            moment_ns=firing.moment_ns,
            pts_s=firing.pts_s,
            before_s=before_s,
            after_s=after_s,
        )

    clip = rule.then.clip
    jobs = [job("clip", clip.before_s, clip.after_s)] if clip else []
    return [*jobs, job("snapshot", 0.0, 0.0)] if rule.then.snapshot else jobs


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint as a whole or not at all."""
    part = path.with_name(f".{path.name}.new")
    part.write_bytes(msgspec.json.encode(checkpoint))
    part.replace(path)


def load(path: Path) -> Checkpoint | None:
    """Read the checkpoint; None if there is none, or none of this version."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Checkpoint)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
