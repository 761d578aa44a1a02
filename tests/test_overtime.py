"""A file takes as long as it takes; what gives no frames ends by the clock."""

from __future__ import annotations

from streamer.overtime import PATIENCE_S, Overtime


def test_a_file_that_is_slow_is_never_late_and_one_that_is_stuck_is():
    overtime = Overtime(10, live=False, now_s=100)
    slow = [overtime.is_over(frames, 100 + 20.0 * frames) for frames in range(1, 50)]
    assert not any(slow)
    last_s = 100 + 20.0 * 49
    assert not overtime.is_over(49, last_s + PATIENCE_S)
    assert overtime.is_over(49, last_s + PATIENCE_S + 1)


def test_a_camera_keeps_to_the_clock():
    overtime = Overtime(10, live=True, now_s=100)
    assert not overtime.is_over(250, 110 + PATIENCE_S)
    assert overtime.is_over(900, 111 + PATIENCE_S)


def test_a_source_without_a_frame_ends_after_the_duration():
    overtime = Overtime(60, live=False, now_s=0)
    assert not overtime.is_over(0, 60 + PATIENCE_S)
    assert overtime.is_over(0, 61 + PATIENCE_S)


def test_without_a_duration_nothing_is_over():
    assert not Overtime(None, live=True, now_s=0).is_over(0, 1e9)
