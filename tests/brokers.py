"""Real brokers and servers in processes of their own, that tests start, kill and start again."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import msgspec
import paho.mqtt.client as paho
import redis
from conftest import missing
from paho.mqtt.enums import CallbackAPIVersion
from pipeline import wait_for

HERE = Path(__file__).resolve().parent
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def program(name: str, package: str) -> str:
    """Path of a server's program."""
    found = shutil.which(name) or shutil.which(name, path=SBIN)
    if not found:
        missing(f"no {name}; install it with: apt-get install {package}")
    return str(found)


def identity(line: bytes | str) -> tuple[str, str]:
    """Camera and id of an event."""
    event = msgspec.json.decode(line)
    return event["camera"], event["id"]


class Server:
    """A server on a port of this host, with a folder for what it keeps."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def start(self) -> None:
        """Start it; returns when it takes connections."""
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder
            )
        wait_for(self.listens, f"{self.command()[0]} on port {self.port}")

    def listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Kill it, or ask it to end."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(timeout=10)
            self.process = None

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def received(self) -> dict[str, list[str]]:
        """By camera, the ids of the events that have arrived, in order."""
        found: defaultdict[str, list[str]] = defaultdict(list)
        for line in self.lines():
            camera, event_id = identity(line)
            found[camera].append(event_id)
        return found

    def lines(self) -> Iterator[bytes | str]:
        raise NotImplementedError


class Mosquitto(Server):
    """An MQTT broker that keeps sessions and retained messages over a restart, and a subscriber."""

    def __init__(self, folder: Path, *, more: str = "allow_anonymous true\n") -> None:
        super().__init__(folder)
        self._config = folder / "mosquitto.conf"
        self._config.write_text(
            f"listener {self.port} 127.0.0.1\npersistence true\n"
            f"persistence_location {folder}/\nuser root\nmax_queued_messages 0\n{more}"
        )
        self.address = f"mqtt://127.0.0.1:{self.port}"
        self._lines: list[bytes] = []
        self.retained: dict[str, bytes] = {}
        self._subscribed = threading.Event()
        self._client: paho.Client | None = None

    def command(self) -> list[str]:
        return [program("mosquitto", "mosquitto"), "-c", str(self._config)]

    def subscribe(self) -> None:
        """Begin, or go on, to take everything; what is published meanwhile waits in the broker."""
        client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id="test", clean_session=False,
            reconnect_on_failure=False,
        )  # fmt: skip
        self._subscribed.clear()
        client.on_connect = lambda *_: client.subscribe([("#", 1)])
        client.on_subscribe = lambda *_: self._subscribed.set()
        client.on_message = self._take
        client.connect("127.0.0.1", self.port)
        client.loop_start()
        assert self._subscribed.wait(10)
        self._client = client

    def unsubscribe(self) -> None:
        """Go away for a while."""
        if self._client is not None:
            self._client.disconnect()
            self._client.loop_stop()
            self._client = None

    def _take(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        if "/events/" in message.topic:
            self._lines.append(message.payload)
        else:
            self.retained[message.topic] = message.payload

    def lines(self) -> Iterator[bytes | str]:
        yield from list(self._lines)

    def __exit__(self, *_: object) -> None:
        self.unsubscribe()
        self.stop()


class RedisServer(Server):
    """A Redis server that has everything on the disk before it answers."""

    def __init__(self, folder: Path, *, more: tuple[str, ...] = ()) -> None:
        super().__init__(folder)
        self.address = f"redis://127.0.0.1:{self.port}/0"
        self._more = more

    def command(self) -> list[str]:
        return [
            program("redis-server", "redis-server"), "--port", str(self.port), "--dir",
            str(self.folder), "--appendonly", "yes", "--appendfsync", "always", "--save", "",
            *self._more,
        ]  # fmt: skip

    def listens(self) -> bool:
        try:
            with redis.Redis(port=self.port, socket_timeout=5) as client:
                return bool(client.ping())
        except redis.AuthenticationError:
            return True
        except redis.RedisError:
            return False

    def lines(self) -> Iterator[bytes | str]:
        with redis.Redis(port=self.port) as client:
            for key in sorted(client.keys("streamer:*")):
                for _, fields in client.xrange(key):
                    assert identity(fields[b"event"])[1] == fields[b"id"].decode()
                    yield fields[b"event"]


class HookServer(Server):
    """A web server."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.address = f"http://127.0.0.1:{self.port}/hook"
        self.file = folder / "posted.jsonl"

    def command(self) -> list[str]:
        return [sys.executable, str(HERE / "hook_server.py"), str(self.port), str(self.file)]

    def posts(self) -> list[dict[str, object]]:
        """All requests, whole ones."""
        if not self.file.exists():
            return []
        lines = self.file.read_bytes().split(b"\n")[:-1]
        return [json.loads(line) for line in lines]

    def lines(self) -> Iterator[bytes | str]:
        for post in self.posts():
            body = msgspec.json.decode(str(post["body"]))
            for event in body if isinstance(body, list) else [body]:
                yield msgspec.json.encode(event)
