"""What every source of frames must do; run by the tests of each implementation."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import islice

import numpy as np
import pytest

from streamer.planes import Planes
from streamer.sources.base import FrameTimes, Source


def check_source(make_source: Callable[[], Source], *, repeatable: bool = True) -> None:
    """Check the contract on the first frames of a source with at least three of them."""
    _check_frames(make_source())
    _check_close(make_source)
    if repeatable:
        assert _pictures(make_source()) == _pictures(make_source())


def _check_frames(source: Source) -> None:
    info = source.open()
    assert info.width > 0
    assert info.height > 0
    assert info.codec
    assert info.matrix in ("bt601", "bt709")
    times: list[FrameTimes] = []
    for frame in islice(source.frames(), 3):
        planes = Planes.empty(frame.width, frame.height)
        planes.fill(1, 1, 1)  # below what limited range has
        frame.write_to(planes)
        assert min(plane.min() for plane in (planes.y, planes.u, planes.v)) > 1
        with pytest.raises(ValueError):  # noqa: PT011 - each source has its own words
            frame.write_to(Planes.empty(frame.width + 2, frame.height))
        times.append(frame.times)
    source.close()
    assert len(times) == 3
    assert all(t.time_base > 0 for t in times)
    assert [t.pts for t in times] == sorted({t.pts for t in times})
    assert [t.receive_ns for t in times] == sorted(t.receive_ns for t in times)


def _check_close(make_source: Callable[[], Source]) -> None:
    never_opened = make_source()
    never_opened.close()
    never_opened.close()

    source = make_source()
    source.open()
    frames = source.frames()
    next(frames)
    closer = threading.Thread(target=source.close)
    closer.start()
    closer.join()
    assert len(list(islice(frames, 3))) <= 1  # the one that may have been on its way
    source.close()


def _pictures(source: Source) -> list[bytes]:
    source.open()
    pictures = []
    for frame in islice(source.frames(), 3):
        planes = Planes.empty(frame.width, frame.height)
        frame.write_to(planes)
        pictures.append(
            np.concatenate([planes.y.ravel(), planes.u.ravel(), planes.v.ravel()]).tobytes()
        )
    source.close()
    return pictures
