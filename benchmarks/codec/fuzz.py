"""Damage recordings and payloads in every way; count what ends neither in frames nor in an error.

A clear error is BitstreamError or EngineMismatch. Anything else is a failure, and so is a frame
that nobody wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np

from engines.codec.base import Picture
from engines.codec.errors import BitstreamError
from engines.codec.player import Player, Recorder
from engines.codec.reader import LvcReader
from engines.codec.records import Header
from engines.codec.runtime import RtRuntime, RtState
from engines.codec.writer import LvcWriter
from engines.errors import EngineMismatch

INTRA_PERIOD = 3
MOST_BYTES = 4
"""That one corruption changes."""


@dataclass
class Outcome:
    """How many attempts ended in which way."""

    tried: int = 0
    frames: int = 0
    """Attempts after which frames came."""
    refused: int = 0
    failures: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, int | str]:
        """For the results."""
        first = self.failures[0] if self.failures else ""
        return {
            "tried": self.tried,
            "frames": self.frames,
            "refused": self.refused,
            "failures": len(self.failures),
            "first_failure": first,
        }


class Victim:
    """A whole recording, and what may be damaged of it."""

    def __init__(self, codec: RtRuntime, pictures: Sequence[Picture], path: Path) -> None:
        """Write the recording; pictures may change their size."""
        self.codec, self.path = codec, path
        height, width = pictures[0].y.shape
        self.size = (width, height)
        header = Header(
            codec.name, codec.model_hash, width, height, Fraction(1, 25), INTRA_PERIOD,
            codec.refresh_period,
        )  # fmt: skip
        with (
            LvcWriter(path, header) as writer,
            Recorder(codec, writer, quality=20) as recorder,
        ):
            for number, picture in enumerate(pictures):
                recorder.add(picture, pts=number, capture_ns=number)
            recorder.add_metadata(b'{"type": "note"}')
        self.content = path.read_bytes()
        with LvcReader(path) as reader:
            self._known = {(r.type, r.pts, r.payload) for r in reader.records()}
        self._played: dict[tuple[int, ...], int] = {}

    def attempt(self, content: bytes, outcome: Outcome) -> None:
        """Read and play a damaged file."""
        outcome.tried += 1
        self.path.write_bytes(content)
        try:
            count = self._play()
        except (BitstreamError, EngineMismatch):
            outcome.refused += 1
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what is looked for
            outcome.failures.append(repr(error))
        else:
            outcome.frames += count > 0

    def _play(self) -> int:
        """Read all records; what was played before plays again, so its network runs once."""
        with LvcReader(self.path) as reader:
            records = list(reader.records())
            strangers = [r for r in records if (r.type, r.pts, r.payload) not in self._known]
            if strangers:
                raise ValueError(f"{len(strangers)} records that nobody wrote")
        key = tuple(r.pts for r in records if r.is_frame)
        if key not in self._played:
            with LvcReader(self.path) as reader:
                player = Player(self.codec, reader)
                self._played[key] = sum(1 for _ in player.pictures())
                if player.refused:
                    raise ValueError(f"a whole record was refused: {player.refused[0]}")
        return self._played[key]


def truncate_everywhere(victim: Victim) -> Outcome:
    """Cut the file off after each of its bytes."""
    outcome = Outcome()
    for length in range(len(victim.content)):
        victim.attempt(victim.content[:length], outcome)
    return outcome


def corrupt_files(victim: Victim, count: int, rng: np.random.Generator) -> Outcome:
    """Change, drop and add bytes of the file; its checks are there to find it."""
    outcome = Outcome()
    for _ in range(count):
        victim.attempt(_hurt(victim.content, rng), outcome)
    return outcome


def corrupt_payloads(victim: Victim, count: int, rng: np.random.Generator) -> Outcome:
    """Change payloads behind the back of the checks, as if they had let it through."""
    outcome = Outcome()
    victim.path.write_bytes(victim.content)
    with LvcReader(victim.path) as reader:
        first, second = [r for r in reader.records() if r.is_frame][:2]
    width, height = victim.size
    codec = victim.codec
    _, after_first = codec.decompress(
        first.payload, None, width=width, height=height, quality=first.quality
    )
    for number in range(count):
        record = (first, second)[number % 2]
        state: RtState | None = (None, after_first)[number % 2]
        outcome.tried += 1
        try:
            picture, _ = codec.decompress(
                _hurt(record.payload, rng), state, width=width, height=height,
                quality=record.quality,
            )  # fmt: skip
        except BitstreamError:
            outcome.refused += 1
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what is looked for
            outcome.failures.append(repr(error))
        else:
            outcome.frames += picture.y.shape == (height, width)
    return outcome


def _hurt(content: bytes, rng: np.random.Generator) -> bytes:
    """Change a few bytes; now and then drop or double a piece, too."""
    hurt = bytearray(content)
    for place in rng.integers(len(hurt), size=int(rng.integers(1, MOST_BYTES + 1))):
        hurt[place] ^= int(rng.integers(1, 256))
    kind = rng.random()
    begin, end = sorted(int(n) for n in rng.integers(len(hurt) + 1, size=2))
    if kind < 0.1:
        del hurt[begin:end]
    elif kind < 0.2:
        hurt[begin:begin] = hurt[begin:end]
    return bytes(hurt)
