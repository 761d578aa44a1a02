"""A whole run: a rendered street, a rule, its clip, picture and signed message; and kills."""

from __future__ import annotations

import json
import re
import time
from datetime import datetime
from pathlib import Path

import av
import numpy as np
import pytest
from brokers import HookServer
from numpy.typing import NDArray
from pipeline import Run, segments, streamer

from streamer.bridges.webhook import sign

SCENE = """
cameras:
  gate: {{source: "synthetic:street?seed=1&size=640x360&fps=10", regime: {regime}}}
record: {{folder: {folder}/recordings, segment_s: 2}}
events: {{log: {folder}/events.db, file: {folder}/events.jsonl}}
rules:
  somebody:
    when: {{event: track.started}}
    then:
      severity: warning
      text: "{{class}} at {{camera}}"
      clip: {{before_s: 1, after_s: 1}}
      snapshot: true
      webhooks: [desk]
    cooldown_s: 2
bridges:
  desk: {{kind: webhook, address: "{address}", secret: "${{HOOK_SECRET}}", retry_s: 0.5}}
duration_s: {duration_s}
"""


def scene(folder: Path, server: HookServer, *, regime: str, duration_s: float) -> Path:
    path = folder / "scene.yaml"
    path.write_text(
        SCENE.format(folder=folder, regime=regime, address=server.address, duration_s=duration_s)
    )
    return path


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_SECRET", "s3cret")


def when(event: dict[str, object], field: str = "time_utc") -> float:
    return datetime.fromisoformat(str(event[field]).replace("Z", "+00:00")).timestamp()


def frames(path: Path) -> list[tuple[float, NDArray[np.uint8]]]:
    with av.open(str(path)) as container:
        return [
            (float(frame.time), frame.to_ndarray(format="yuv420p"))
            for frame in container.decode(video=0)
        ]


def frame_at(path: Path, at_s: float) -> NDArray[np.uint8]:
    return min(frames(path), key=lambda frame: abs(frame[0] - at_s))[1]


def start_pts_s(path: Path) -> float:
    with av.open(str(path)) as container:
        return float(container.metadata["description"].partition("=")[2])


def of_kind(events: list[dict[str, object]], kind: str) -> dict[str, dict[str, object]]:
    """Events of a rule by their cause."""
    return {str(event["cause_id"]): event for event in events if event["type"] == kind}


@pytest.mark.parametrize("regime", ["live", "offline"])
def test_a_rule_makes_a_clip_a_picture_and_a_signed_message(tmp_path: Path, regime: str) -> None:
    with HookServer(tmp_path) as server:
        assert isinstance(server, HookServer)
        path = scene(tmp_path, server, regime=regime, duration_s=5)
        done = streamer("run", path, "--json", timeout_s=90)
        assert done.returncode == 0, done.stderr[-3000:]
        assert not re.search("ERROR|WARNING", done.stderr), done.stderr
        posts = server.posts()
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    by_id = {event["id"]: event for event in events}
    fired = of_kind(events, "rule.fired")
    clips, snapshots = of_kind(events, "clip.saved"), of_kind(events, "snapshot.saved")
    assert fired, done.stderr[-3000:]
    assert fired.keys() == clips.keys() == snapshots.keys()
    for cause_id, event in fired.items():
        cause = by_id[cause_id]
        assert cause["type"] == "track.started"
        assert event["text"] == f"{cause['class']} at gate"
        assert event["severity"] == "warning"
        assert (event["pts_s"], event["time_utc"]) == (cause["pts_s"], cause["time_utc"])
        check_clip(clips[cause_id], cause, tmp_path)
        check_snapshot(snapshots[cause_id], cause, regime)
    assert {post["type"] for post in map(body, posts)} == {
        "rule.fired", "clip.saved", "snapshot.saved",
    }  # fmt: skip
    assert [body(post)["id"] for post in posts] == [
        event["id"] for event in events if event["type"] in ("rule.fired", "clip.saved",
                                                            "snapshot.saved")
    ]  # fmt: skip
    for post in posts:
        headers = post["headers"]
        assert isinstance(headers, dict)
        expected = sign(b"s3cret", headers["X-Streamer-Timestamp"], str(post["body"]).encode())
        assert headers["X-Streamer-Signature"] == expected
    assert "s3cret" not in "".join(lines) + done.stderr + done.stdout


def body(post: dict[str, object]) -> dict[str, object]:
    event = json.loads(str(post["body"]))
    assert isinstance(event, dict)
    return event


def check_clip(clip: dict[str, object], cause: dict[str, object], folder: Path) -> None:
    """It plays, and the moment in it is the very frame of the recording."""
    path, cause_s = Path(str(clip["path"])), float(str(clip["cause_s"]))
    pictures = frames(path)
    assert len(pictures) == clip["frames"]
    assert path.stat().st_size == clip["size_bytes"]
    assert pictures[0][0] == 0
    assert 0 <= cause_s <= float(str(clip["duration_s"]))
    pts_s = float(str(cause["pts_s"]))
    segment = max(
        (each for each in segments(folder / "recordings") if each.parent.parent.name == "gate"
         and start_pts_s(each) <= pts_s + 0.01),
        key=start_pts_s,
    )  # fmt: skip
    there = frame_at(segment, pts_s - start_pts_s(segment))
    assert np.array_equal(frame_at(path, cause_s), there)
    if clip["complete"]:
        assert cause_s >= 1 - 0.01
        assert float(str(clip["duration_s"])) - cause_s >= 1 - 0.01


def check_snapshot(snapshot: dict[str, object], cause: dict[str, object], regime: str) -> None:
    path = Path(str(snapshot["path"]))
    assert path.suffix == ".jpg"
    assert (snapshot["width"], snapshot["height"]) == (640, 360)
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "mjpeg"
        picture = next(container.decode(video=0))
        assert (picture.width, picture.height) == (640, 360)
    if regime == "live":
        assert abs(when(snapshot, "frame_utc") - when(cause)) < 0.02


@pytest.mark.slow
def test_killed_rules_and_bridges_go_on_and_tell_nothing_twice(tmp_path: Path) -> None:
    with HookServer(tmp_path) as server:
        assert isinstance(server, HookServer)
        path = scene(tmp_path, server, regime="live", duration_s=9)
        with Run(tmp_path, path) as run:
            run.wait_event("rule.fired")
            run.stage("rules").kill()
            run.stage("bridge.desk").kill()
            run.wait_event("stage.restarted", stage="rules")
            run.wait_event("stage.restarted", stage="bridge.desk")
            run.finish()
        posts = [body(post) for post in server.posts()]
        events = run.events()
    fired = [event["cause_id"] for event in events if event["type"] == "rule.fired"]
    assert len(fired) == len(set(fired))
    assert set(fired) == of_kind(events, "clip.saved").keys()
    assert set(fired) == of_kind(events, "snapshot.saved").keys()
    wanted = [e["id"] for e in events if str(e["type"]).startswith(("rule.", "clip.", "snapshot."))]
    assert list(dict.fromkeys(post["id"] for post in posts)) == wanted


@pytest.mark.slow
def test_a_run_ends_in_time_though_its_server_is_away_and_the_next_delivers(tmp_path: Path) -> None:
    server = HookServer(tmp_path)
    path = scene(tmp_path, server, regime="live", duration_s=60)
    with Run(tmp_path, path) as run:
        run.wait_event("bridge.down")
        run.wait_event("rule.fired")
        begin_s = time.monotonic()
        run.stop()
        assert time.monotonic() - begin_s < 5
        waiting = [
            event["id"] for event in run.events()
            if str(event["type"]).startswith(("rule.", "clip.", "snapshot."))
        ]  # fmt: skip
    assert waiting
    assert not server.posts()
    with server:
        again = scene(tmp_path, server, regime="live", duration_s=1)
        done = streamer("run", again)
        assert done.returncode == 0, done.stderr[-3000:]
        ids = [body(post)["id"] for post in server.posts()]
    assert ids[: len(waiting)] == waiting
    assert len(ids) == len(set(ids))
