"""Subscribers: every event once and in order, whatever is lost, sent twice or begun anew."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from station import Station

from streamer import client
from streamer.client import Subscription, subscribe, subscribe_async
from streamer.errors import ConfigError
from streamer.events import AnyEvent, StageFailed

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def station(tmp_path: Path) -> Iterator[Station]:
    with Station(tmp_path) as station:
        yield station


@pytest.fixture
def listening(station: Station) -> Iterator[Subscription]:
    """A subscription that has seen the first event and a heartbeat."""
    with join(station) as subscription:
        yield subscription


def join(station: Station, **options: object) -> Subscription:
    subscription = subscribe(station.address, kind="stage", silent_s=5, **options)  # type: ignore[arg-type]
    station.wait_for_subscriber()
    station.publish()
    station.beat()
    assert len(take(subscription, 1)) == 1
    return subscription


def take(subscription: Iterator[AnyEvent], count: int) -> list[AnyEvent]:
    return list(itertools.islice(subscription, count))


def numbers(events: list[AnyEvent]) -> list[int]:
    return [event.seq for event in events]


# What is heard.


def test_events_are_typed_and_in_order(station, listening):
    sent = station.publish(20)
    assert take(listening, 20) == sent
    assert isinstance(sent[0], StageFailed)
    assert (listening.missed, listening.replayed, listening.duplicates) == (0, 0, 0)


def test_kinds_and_cameras_are_chosen(station):
    with subscribe(station.address, camera="gate", kind="stage", silent_s=1) as gate:
        station.wait_for_subscriber()
        station.publish(2)
        station.publish(3, camera="yard")
        station.beat()
        station.publish(1)
        assert [(event.camera, event.seq) for event in gate] == [
            ("gate", 1), ("gate", 2), ("gate", 3),
        ]  # fmt: skip


def test_a_kind_that_does_not_come_ends_in_silence(station):
    with subscribe(station.address, kind="track", silent_s=0.3) as tracks:
        station.wait_for_subscriber()
        station.publish(5)
        assert list(tracks) == []
        assert tracks.position == {"gate": 6}


def test_heartbeats_are_events_too(station):
    with subscribe(station.address, kind="heartbeat", silent_s=5) as beats:
        station.wait_for_subscriber()
        station.publish()
        station.beat()
        (beat,) = take(beats, 1)
        assert (beat.cameras, beat.last_seqs) == (("gate",), (1,))


# Gaps.


def test_what_was_not_delivered_is_fetched_in_its_place(station, listening):
    [station.make() for _ in range(5)]  # 2 to 6 never leave
    station.publish(3)
    assert numbers(take(listening, 8)) == [2, 3, 4, 5, 6, 7, 8, 9]
    assert (listening.missed, listening.replayed) == (0, 5)


def test_a_gap_at_the_end_shows_with_the_next_heartbeat(station, listening):
    [station.make() for _ in range(5)]
    station.beat()
    assert numbers(take(listening, 5)) == [2, 3, 4, 5, 6]


def test_a_gap_larger_than_a_page(station, listening):
    count = 2500
    [station.make() for _ in range(count)]
    station.publish()
    assert numbers(take(listening, count + 1)) == list(range(2, count + 3))
    assert listening.replayed == count


def test_the_gap_of_one_camera_does_not_mix_up_the_other(station, listening):
    station.make("gate")
    station.make("yard")
    station.publish(2, "yard")
    station.publish(2, "gate")
    events = take(listening, 6)
    assert numbers([event for event in events if event.camera == "gate"]) == [2, 3, 4]
    assert numbers([event for event in events if event.camera == "yard"]) == [1, 2, 3]


def test_a_gap_before_the_first_heartbeat_waits_for_it(station):
    with subscribe(station.address, kind="stage", silent_s=5) as subscription:
        station.wait_for_subscriber()
        station.publish()
        station.make()
        station.publish(2)
        station.beat()
        assert numbers(take(subscription, 4)) == [1, 2, 3, 4]


def test_what_the_log_has_pruned_is_counted(station, listening, caplog):
    [station.make() for _ in range(9)]
    station.log._prune(6)
    station.publish()
    assert numbers(take(listening, 6)) == [6, 7, 8, 9, 10, 11]
    assert listening.missed == 4
    assert "4 events of gate are lost" in caplog.text


def test_without_a_log_a_gap_is_counted_and_told(tmp_path, caplog):
    with Station(tmp_path, logs=False) as station, join(station) as listening:
        [station.make() for _ in range(3)]
        station.publish(2)
        assert numbers(take(listening, 2)) == [5, 6]
        assert listening.missed == 3


def test_a_replay_service_that_does_not_answer_costs_time_not_the_live_events(
    station, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(client, "_ANSWER_S", 0.05)
    with join(station, replay=f"ipc://{tmp_path}/nobody") as listening:
        station.make()
        station.publish(2)
        assert numbers(take(listening, 2)) == [3, 4]
        assert listening.missed == 1
        assert "nobody does not answer" in caplog.text


# Going on where one was.


def test_a_subscriber_that_was_away_goes_on_where_it_was(station):
    with join(station) as before:
        station.publish(4)
        take(before, 4)
        position = before.position
    station.publish(10)  # while nobody listens
    with subscribe(station.address, kind="stage", since=position, silent_s=5) as after:
        station.wait_for_subscriber()
        station.publish()
        station.beat()
        assert numbers(take(after, 11)) == list(range(6, 17))
        assert after.missed == 0


def test_from_the_beginning_on(station):
    station.publish(10)
    with subscribe(station.address, kind="stage", since={"gate": 1}, silent_s=5) as all_of_them:
        station.wait_for_subscriber()
        station.beat()
        assert numbers(take(all_of_them, 10)) == list(range(1, 11))


def test_across_a_restart_of_the_pipeline(tmp_path):
    with Station(tmp_path) as first, join(first) as listening:
        first.publish(3)
        assert numbers(take(listening, 3)) == [2, 3, 4]
        first.close()
        with Station(tmp_path, run="run2") as second:
            second.wait_for_subscriber(lambda: next(listening._steps))  # back by itself
            [second.make() for _ in range(4)]
            second.publish(2)
            second.beat()
            events = take(listening, 6)
            assert numbers(events) == list(range(5, 11))
            assert {event.id.partition("-")[0] for event in events} == {"run2"}
            assert listening.missed == 0


def test_a_camera_that_is_new_after_a_restart_is_heard_from_its_first_event(tmp_path):
    with Station(tmp_path) as first, join(first) as listening:
        first.close()
        with Station(tmp_path, run="run2") as second:
            second.wait_for_subscriber(lambda: next(listening._steps))
            [second.make("roof") for _ in range(3)]
            second.beat()
            assert numbers(take(listening, 3)) == [1, 2, 3]


def test_a_pipeline_without_a_log_counts_from_1_again(tmp_path):
    with Station(tmp_path, logs=False) as first, join(first) as listening:
        first.publish(4)
        take(listening, 4)
        first.close()
        with Station(tmp_path, run="run2", logs=False) as second:
            second.wait_for_subscriber(lambda: next(listening._steps))
            second.publish(2)
            second.beat()
            assert [event.id for event in take(listening, 2)] == ["run2-gate-1", "run2-gate-2"]
            assert listening.missed == 0


# Duplicates and strangers.


def test_what_is_sent_twice_is_delivered_once(station, listening):
    sent = station.publish(3)
    station.send(*sent)
    sent += station.publish(1)
    assert take(listening, 4) == sent
    assert listening.duplicates == 3


def test_what_is_no_event_is_passed_over(station, listening, caplog):
    station._socket.send_multipart([b"gate.x", b"not JSON"])
    station._socket.send_multipart([b"gate.x", b'{"id": 3}'])
    station.publish()
    assert numbers(take(listening, 1)) == [2]
    assert "what is no event was passed over" in caplog.text


def test_an_event_of_another_version_is_passed_over_but_counted(station, listening, caplog):
    line = b'{"type":"stage.sideways","id":"run1-gate-2","seq":2,"camera":"gate"}'
    station._socket.send_multipart([b"gate.stage.sideways", line])
    station.make()
    station.publish()
    assert numbers(take(listening, 1)) == [3]
    assert "an event of another version was passed over" in caplog.text


def test_a_wrong_address_is_a_clear_error():
    with pytest.raises(ConfigError, match=r"nonsense: .*; give the address that the"):
        subscribe("nonsense")


# As a program.


def test_for_async(station):
    async def listen() -> list[int]:
        async with subscribe_async(station.address, kind="stage", silent_s=5) as events:
            station.wait_for_subscriber()
            station.publish(2)
            station.beat()
            [station.make() for _ in range(3)]
            station.publish(2)
            found = []
            async for event in events:
                found.append(event.seq)
                if len(found) == 7:
                    break
            assert events.replayed == 3
            return found

    assert asyncio.run(listen()) == [1, 2, 3, 4, 5, 6, 7]


def test_waiting_asynchronously_lets_others_work(station):
    async def both() -> int:
        worked = 0
        async with subscribe_async(station.address, kind="stage", silent_s=0.4) as events:

            async def work() -> None:
                nonlocal worked
                while True:
                    worked += 1
                    await asyncio.sleep(0.01)

            task = asyncio.create_task(work())
            assert [event async for event in events] == []
            task.cancel()
        return worked

    assert asyncio.run(both()) > 10


def test_connections_are_closed_with_the_last_reference(station):
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        for _ in itertools.islice(subscribe(station.address, silent_s=0.01), 1):
            pass
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def test_it_imports_zmq_and_msgspec_alone():
    code = (
        f"import sys; sys.path += {sys.path!r}; import streamer.client;"
        "print(*{name.partition('.')[0] for name in sys.modules} - sys.stdlib_module_names)"
    )
    found = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    libraries = {name for name in found.stdout.split() if "cython" not in name.lower()}
    assert libraries - {"typing_extensions"} == {"__main__", "msgspec", "streamer", "zmq"}
