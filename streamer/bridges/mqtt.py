"""Publish events and states to an MQTT broker with QoS 1; one target of a bridge.

    ROOT/gate/events/zone.enter      each event
    ROOT/gate/availability           retained: online, offline
    ROOT/gate/zones/door/occupancy   retained; likewise visits, lines/exit/in, lines/exit/out, alarm
    ROOT/status                      retained: online, and by the last will offline

A thread of the library speaks with the broker. When the connection breaks, all that was not
acknowledged is published again over the next one, in order.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from urllib.parse import unquote, urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from streamer.bridges.discovery import STATUS, discovery
from streamer.bridges.section import MqttConfig
from streamer.bridges.state import HOST, States
from streamer.bridges.target import TargetDown
from streamer.config import CameraConfig
from streamer.errors import ConfigError
from streamer.eventlog import Row
from streamer.sources.redact import redact, resolve_env

_KEEPALIVE_S = 30
_GOODBYE_S = 1.0


class Mqtt:
    """One broker.

    Args:
        config: of the bridge.
        name: of the bridge.
        cameras: that Home Assistant is told of.

    Raises:
        ConfigError: a variable of the environment is not set, or the certificates can't be read.
    """

    def __init__(self, config: MqttConfig, name: str, cameras: Mapping[str, CameraConfig]) -> None:
        self._config = config
        self._name = name
        self._cameras = cameras
        self._where = redact(config.address)
        self._address = urlsplit(resolve_env(config.address))
        self._states = States()
        self._client: paho.Client | None = None
        self._answered = threading.Event()
        self._lost = threading.Event()
        self._why = ""
        self._make()  # so that certificates that can't be read are told at once

    def open(self) -> None:
        """Connect, and say all that is retained."""
        client = self._client = self._make()
        self._answered.clear()
        self._lost.clear()
        self._why = ""
        tls = self._address.scheme == "mqtts"
        port = self._address.port or (8883 if tls else 1883)
        try:
            client.connect(self._address.hostname or "", port, keepalive=_KEEPALIVE_S)
        except (OSError, ValueError) as error:
            raise TargetDown(f"{self._where}: {error}") from error
        client.loop_start()
        if not self._answered.wait(self._config.timeout_s):
            raise TargetDown(f"{self._where}: no answer within {self._config.timeout_s:g} s")
        self.check()
        said = {f"{self._config.root}/{STATUS}": b"online"}
        if self._config.discovery:
            said |= dict(discovery(self._config.discovery, self._config.root, self._cameras))
        said |= self._below_root(self._states.values)
        self._await([[self._publish(*each, retain=True)] for each in said.items()])

    def check(self) -> None:
        """Look whether the connection is there."""
        if self._lost.is_set() or self._client is None:
            raise TargetDown(f"{self._where}: {self._why or 'the connection is gone'}")

    def send(self, rows: Sequence[Row]) -> None:
        """Publish events, and behind each what it changes."""
        size = self._config.in_flight
        for begin in range(0, len(rows), size):
            try:
                self._await([self._send(row) for row in rows[begin : begin + size]])
            except TargetDown as error:
                raise TargetDown(str(error), done=begin + error.done) from error

    def close(self) -> None:
        """Say goodbye where there is somebody to hear it."""
        client, self._client = self._client, None
        if client is None:
            return
        if client.is_connected():
            bye = client.publish(f"{self._config.root}/{STATUS}", b"offline", qos=1, retain=True)
            deadline = time.monotonic() + _GOODBYE_S
            while not bye.is_published() and not self._lost.wait(0.01):
                if time.monotonic() > deadline:
                    break
        client.disconnect()
        client.loop_stop()

    def _send(self, row: Row) -> list[paho.MQTTMessageInfo]:
        topic = f"{self._config.root}/{row.camera or HOST}/events/{row.kind}"
        states = self._below_root(self._states.update(row))
        return [
            self._publish(topic, row.line, retain=False),
            *(self._publish(*each, retain=True) for each in states.items()),
        ]

    def _below_root(self, states: Mapping[str, bytes]) -> dict[str, bytes]:
        return {f"{self._config.root}/{topic}": value for topic, value in states.items()}

    def _publish(self, topic: str, payload: bytes, *, retain: bool) -> paho.MQTTMessageInfo:
        self.check()
        assert self._client is not None
        return self._client.publish(topic, payload, qos=1, retain=retain)

    def _await(self, sent: Sequence[Sequence[paho.MQTTMessageInfo]]) -> None:
        """Wait until the broker has acknowledged all messages."""
        deadline = time.monotonic() + self._config.timeout_s
        for done, messages in enumerate(sent):
            try:
                for message in messages:
                    while not _acknowledged(message):
                        self.check()
                        if time.monotonic() > deadline:
                            limit_s = self._config.timeout_s
                            raise TargetDown(f"{self._where}: silent for {limit_s:g} s")
            except (RuntimeError, TargetDown) as error:
                why = error if isinstance(error, TargetDown) else f"{self._where}: {error}"
                raise TargetDown(str(why), done=done) from error

    def _make(self) -> paho.Client:
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._config.client_id or f"streamer-{self._name}",
            reconnect_on_failure=False,  # the pump tries again, and knows what to repeat
        )
        client.connect_timeout = self._config.timeout_s
        client.max_inflight_messages_set(self._config.in_flight)
        if self._address.username is not None:
            password = self._address.password
            client.username_pw_set(
                unquote(self._address.username), None if password is None else unquote(password)
            )
        if self._address.scheme == "mqtts":
            try:
                client.tls_set(ca_certs=self._config.ca_file or None)
            except OSError as error:
                raise ConfigError(
                    f"ca_file: {self._config.ca_file} can't be read: {error}; give a PEM file"
                ) from error
        client.will_set(f"{self._config.root}/{STATUS}", b"offline", qos=1, retain=True)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        return client

    # Called by the library's thread.

    def _on_connect(
        self,
        _client: paho.Client,
        _data: object,
        _flags: paho.ConnectFlags,
        code: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if code.is_failure:
            self._why = str(code)
            self._lost.set()
        self._answered.set()

    def _on_disconnect(
        self,
        client: paho.Client,
        _data: object,
        _flags: paho.DisconnectFlags,
        code: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if client is self._client:
            self._why = self._why or f"the connection broke: {code}"
            self._lost.set()
            self._answered.set()


def _acknowledged(message: paho.MQTTMessageInfo) -> bool:
    """Wait a little for one message.

    Raises:
        RuntimeError: it never was sent, for the connection was gone.
    """
    message.wait_for_publish(0.05)
    return message.is_published()
