"""Which frames are looked at beside inference: as many a second of media time, whatever comes."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from samples import info_of

from streamer.annotator import Cadence
from streamer.messages import FrameInfo


def at(ms: int, *, camera: str = "gate", epoch: int = 1, jump: bool = False) -> FrameInfo:
    info = info_of(ms, camera=camera, epoch=epoch)
    return msgspec.structs.replace(info, pts=ms, time_base=(1, 1000), discontinuity=jump)


@pytest.mark.parametrize("fps", [8, 10, 12.5, 15, 25, 29.97, 60])
def test_cameras_of_any_rate_are_looked_at_alike(fps: float) -> None:
    cadence = Cadence(8)
    taken = [n for n in range(round(20 * fps)) if cadence.takes(at(round(n * 1000 / fps)))]
    assert len(taken) == pytest.approx(160, abs=1)
    gaps_s = [(b - a) / fps for a, b in itertools.pairwise(taken)]
    assert max(gaps_s) <= 1 / 8 + 1 / fps + 1e-6


def test_a_slow_camera_is_looked_at_whole() -> None:
    cadence = Cadence(8)
    assert all(cadence.takes(at(n * 200)) for n in range(50))


def test_a_gap_a_jump_and_a_new_epoch_begin_anew() -> None:
    cadence = Cadence(5)
    assert cadence.takes(at(0))
    assert not cadence.takes(at(100))
    assert cadence.takes(at(110, jump=True))
    assert not cadence.takes(at(150))
    assert cadence.takes(at(160, epoch=2))
    assert cadence.takes(at(1_000_000, epoch=2))
    assert not cadence.takes(at(1_000_100, epoch=2))
    assert cadence.takes(at(1_000_200, epoch=2))
    assert cadence.takes(at(5, epoch=2))  # the clock went back


def test_each_camera_has_its_own() -> None:
    cadence = Cadence(5)
    assert cadence.takes(at(0))
    assert cadence.takes(at(50, camera="yard"))
    assert not cadence.takes(at(100))
    assert cadence.takes(at(250, camera="yard"))
