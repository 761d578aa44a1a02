"""Post events to an HTTP server as signed JSON; one target of a bridge, standard library alone.

A server checks X-Streamer-Signature: "sha256=" and the HMAC-SHA256, in hex, of the bytes of
X-Streamer-Timestamp, a dot, and the body. Redirects are not followed.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import ssl
import time
from collections.abc import Sequence
from urllib.parse import SplitResult, unquote, urlsplit

from streamer import __version__
from streamer.bridges.section import WebhookConfig
from streamer.bridges.target import Refused, TargetDown
from streamer.errors import ConfigError
from streamer.eventlog import Row
from streamer.sources.redact import redact, resolve_env

_TRY_AGAIN = (408, 425, 429)
_MOST_ANSWER_BYTES = 1 << 16


def sign(secret: bytes, timestamp: str, body: bytes) -> str:
    """The signature of one request."""
    return (
        "sha256=" + hmac.new(secret, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    )


class Webhook:
    """One server.

    Raises:
        ConfigError: a variable of the environment is not set, or the certificates can't be read.
    """

    def __init__(self, config: WebhookConfig) -> None:
        self._config = config
        address = urlsplit(resolve_env(config.address))
        self._where = redact(f"{address.scheme}://{address.netloc}{address.path}")
        self._path = (address.path or "/") + (f"?{address.query}" if address.query else "")
        self._secret = resolve_env(config.secret).encode()
        self._user = _basic(address) if address.username is not None else ""
        self._connection = self._make(address)

    def open(self) -> None:
        """Connect; the first event goes over this connection."""
        try:
            self._connection.connect()
        except OSError as error:
            raise TargetDown(f"{self._where}: {error}") from error

    def check(self) -> None:
        """Nothing: servers close idle connections, and the next event makes another."""

    def send(self, rows: Sequence[Row]) -> None:
        """Post events, in parts of `batch`."""
        size = self._config.batch
        for begin in range(0, len(rows), size):
            part = rows[begin : begin + size]
            refused = self._post(part, begin)
            if refused and len(part) > 1:  # one of them is to blame, the others are not
                for index, row in enumerate(part, begin):
                    if why := self._post([row], index):
                        raise Refused(why, done=index)
            elif refused:
                raise Refused(refused, done=begin)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _post(self, rows: Sequence[Row], done: int) -> str:
        """Post once; returns why it was refused for good, or nothing."""
        lines = [row.line for row in rows]
        body = lines[0] if self._config.batch == 1 else b"[" + b",".join(lines) + b"]"
        try:
            answer = self._exchange(body)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            why = str(error) or type(error).__name__
            raise TargetDown(f"{self._where}: {why}", done=done) from error
        if 200 <= answer.status < 300:
            return ""
        said = f"{self._where}: {answer.status} {answer.reason}"
        if 300 <= answer.status < 400:
            raise TargetDown(
                f"{said}; redirects are not followed, give the address that it leads to", done=done
            )
        if answer.status >= 500 or answer.status in _TRY_AGAIN:
            raise TargetDown(said, done=done, retry_in_s=_seconds(answer.getheader("Retry-After")))
        return said

    def _exchange(self, body: bytes) -> http.client.HTTPResponse:
        """Post over the connection that there is, or a fresh one if the server has closed it."""
        reused = self._connection.sock is not None
        try:
            return self._exchange_once(body)
        except TimeoutError:
            raise
        except (OSError, http.client.HTTPException):
            self._connection.close()
            if not reused:
                raise
            return self._exchange_once(body)

    def _exchange_once(self, body: bytes) -> http.client.HTTPResponse:
        self._connection.request("POST", self._path, body, self._headers(body))
        answer = self._connection.getresponse()
        answer.read(_MOST_ANSWER_BYTES)
        if not answer.isclosed():
            self._connection.close()
        return answer

    def _headers(self, body: bytes) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "User-Agent": f"streamer/{__version__}"}
        timestamp = str(int(time.time()))
        headers["X-Streamer-Timestamp"] = timestamp
        if self._user:
            headers["Authorization"] = self._user
        if self._secret:
            headers["X-Streamer-Signature"] = sign(self._secret, timestamp, body)
        return headers

    def _make(self, address: SplitResult) -> http.client.HTTPConnection:
        host, timeout_s = address.hostname or "", self._config.timeout_s
        if address.scheme == "http":
            return http.client.HTTPConnection(host, address.port, timeout=timeout_s)
        try:
            context = ssl.create_default_context(cafile=self._config.ca_file or None)
        except OSError as error:
            raise ConfigError(
                f"ca_file: {self._config.ca_file} can't be read: {error}; give a PEM file"
            ) from error
        return http.client.HTTPSConnection(host, address.port, timeout=timeout_s, context=context)


def _basic(address: SplitResult) -> str:
    user = f"{unquote(address.username or '')}:{unquote(address.password or '')}"
    return f"Basic {base64.b64encode(user.encode()).decode()}"


def _seconds(text: str | None) -> float | None:
    """Retry-After in seconds; its other form, a date, is rare and not worth it."""
    return float(text) if text and text.isdecimal() else None
