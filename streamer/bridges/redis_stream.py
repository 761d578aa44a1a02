"""Append events to Redis Streams, one stream a camera; one target of a bridge.

After a broken connection nobody knows which of the last events had arrived. So the end of each
stream is read before anything is appended to it again, and what is there already is passed over.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from streamer.bridges.section import RedisConfig
from streamer.bridges.target import TargetDown
from streamer.eventlog import Row
from streamer.sources.redact import redact, resolve_env

_Value = bytes | bytearray | memoryview | str | int | float
_Entry = dict[_Value, _Value]
_HOST = "host"
_TAIL = 1000
"""Entries at the end of a stream that may be of the batch that broke off."""


class _Named(msgspec.Struct):
    id: str


class RedisStream:
    """One server.

    Raises:
        ConfigError: a variable of the environment is not set.
    """

    def __init__(self, config: RedisConfig) -> None:
        self._config = config
        self._where = redact(config.address)
        pool = redis.ConnectionPool.from_url(
            resolve_env(config.address),
            socket_timeout=config.timeout_s,
            socket_connect_timeout=config.timeout_s,
            retry=Retry(NoBackoff(), 0),  # the pump tries again, and knows when
            **({"ssl_ca_certs": config.ca_file} if config.ca_file else {}),
        )
        self._client = redis.Redis(connection_pool=pool)
        self._met: dict[str, frozenset[str]] = {}
        """By stream met since open: identities that it ended with then."""

    def open(self) -> None:
        """Connect."""
        self._met.clear()
        self.check()

    def check(self) -> None:
        """Ask whether the server is there."""
        try:
            self._client.ping()
        except (RedisError, OSError) as error:
            raise self._down(error) from error

    def send(self, rows: Sequence[Row]) -> None:
        """Append events with one round trip."""
        pipeline = self._client.pipeline(transaction=False)
        asked: list[int] = []
        try:
            for index, row in enumerate(rows):
                key = self._config.stream.replace("{camera}", row.camera or _HOST)
                identity = msgspec.json.decode(row.line, type=_Named).id
                if identity in self._tail_of(key):
                    continue
                entry: _Entry = {"id": identity, "type": row.kind, "event": row.line}
                pipeline.xadd(key, entry, maxlen=self._config.max_len, approximate=True)
                asked.append(index)
            answers = pipeline.execute(raise_on_error=False)
        except (RedisError, OSError) as error:
            raise self._down(error) from error
        for index, answer in zip(asked, answers, strict=True):
            if isinstance(answer, Exception):
                raise self._down(answer, done=index) from answer

    def close(self) -> None:
        """Close the connection."""
        self._client.close()
        self._client.connection_pool.disconnect()

    def _tail_of(self, key: str) -> frozenset[str]:
        if key not in self._met:
            entries = self._client.xrevrange(key, count=_TAIL) or []
            self._met[key] = frozenset(
                _text((fields or {}).get(b"id", b"")) for _, fields in entries
            )
        return self._met[key]

    def _down(self, error: Exception, *, done: int = 0) -> TargetDown:
        hint = ""
        if isinstance(error, ResponseError) and "WRONGTYPE" in str(error):
            hint = "; a key of this name is no stream: delete it, or set `stream` to another"
        return TargetDown(f"{self._where}: {redact(str(error))}{hint}", done=done)


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
