"""Keep what a library compiled for this very machine, and hand it out only while its key fits.

An entry is one file: a header with its key and the hash of its content, then the content. Entries
are written whole or not at all; one that is damaged, foreign or of another key is built again.
Knows no library. Several processes may use one cache; one at a time builds.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from engines.errors import EngineUnavailable

_MAGIC = b"streamer engine 1\n"
_LONGEST_HEADER_BYTES = 65536

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EngineKey:
    """All that decides whether a compiled network may be used; any difference means a new one."""

    graph: str
    """SHA-256 of the ONNX bytes that the library was given."""
    precision: str
    shapes: str
    """Each input with the lengths that it was optimised for."""
    options: str
    """What else the builder was told: memory limit, compatibility."""
    library: str
    """Name and version, such as "tensorrt 8.6.0"."""
    gpu: str
    """Name and compute capability."""
    driver: str

    def digest(self) -> str:
        """Name of the key in file names."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:20]


@dataclass(frozen=True, slots=True)
class Entry:
    """One compiled network and its place."""

    content: bytes
    path: Path
    built: bool
    """True if it was compiled just now, False if it was found."""


class EngineCache:
    """Compiled networks in one folder of the user."""

    def __init__(self, folder: Path | None = None) -> None:
        """Name the folder; it is made when something is stored.

        Args:
            folder: None is $XDG_CACHE_HOME/streamer/tensorrt.
        """
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        self.folder = folder or Path(home) / "streamer" / "tensorrt"

    def path(self, name: str, key: EngineKey) -> Path:
        """Where the entry of a key lies; the name is for people."""
        return self.folder / f"{name}-{key.digest()}.engine"

    def find(self, name: str, key: EngineKey) -> bytes | None:
        """Read an entry, or None if there is none that can be trusted; the log says why."""
        return self._read(self.path(name, key), asdict(key))

    def get_or_build(self, name: str, key: EngineKey, build: Callable[[], bytes]) -> Entry:
        """Read an entry, or build and store it.

        Args:
            name: of the network.
            key: must fit in every part.
            build: compiles; called at most once, while no other process builds here. What it
                raises leaves the cache as it was.

        Raises:
            EngineUnavailable: the folder or the entry can't be written.
        """
        path = self.path(name, key)
        content = self.find(name, key)
        if content is not None:
            return Entry(content, path, built=False)
        with self._one_builder():
            content = self.find(name, key)  # another process may have built it meanwhile
            if content is not None:
                return Entry(content, path, built=False)
            content = build()
            self._write(path, asdict(key), content)
        return Entry(content, path, built=True)

    def find_timings(self, key: EngineKey) -> bytes:
        """Read the builder's timings on this machine, or nothing if there are none to trust."""
        return self._read(self._timings(key), _machine(key)) or b""

    def store_timings(self, key: EngineKey, content: bytes) -> None:
        """Keep the builder's timings; they hold for any network on this machine.

        Raises:
            EngineUnavailable: the folder can't be written.
        """
        self._write(self._timings(key), _machine(key), content)

    def _timings(self, key: EngineKey) -> Path:
        digest = hashlib.sha256(json.dumps(_machine(key)).encode()).hexdigest()[:20]
        return self.folder / f"{digest}.timings"

    @contextmanager
    def _one_builder(self) -> Iterator[None]:
        """Wait for other builds, which would disturb the timings of this one."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.folder, os.O_RDONLY)
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _read(self, path: Path, key: dict[str, str]) -> bytes | None:
        try:
            with path.open("rb") as file:
                refusal = _distrust(os.fstat(file.fileno()))
                content = None if refusal else file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            refusal, content = error.strerror or "unreadable", None
        if content is not None:
            try:
                return _unpack(content, key)
            except ValueError as error:
                refusal = str(error)
        _log.warning("%s: %s; it is built again", path, refusal)
        return None

    def _write(self, path: Path, key: dict[str, str], content: bytes) -> None:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor, partial = tempfile.mkstemp(prefix=".partial-", dir=self.folder)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(_pack(content, key))
                Path(partial).replace(path)
            except OSError:
                Path(partial).unlink()
                raise
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> EngineUnavailable:
        return EngineUnavailable(
            f"{self.folder}: cache of engines must be a folder that can be written, got "
            f"{error.strerror}; free some space, or set XDG_CACHE_HOME to another folder"
        )


def _machine(key: EngineKey) -> dict[str, str]:
    return {"library": key.library, "gpu": key.gpu, "driver": key.driver}


def _pack(content: bytes, key: dict[str, str]) -> bytes:
    header = {"key": key, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    return _MAGIC + json.dumps(header).encode() + b"\n" + content


def _unpack(entry: bytes, key: dict[str, str]) -> bytes:
    """Give an entry's content.

    Raises:
        ValueError: it is no entry, damaged, or of another key; the text says which.
    """
    if not entry.startswith(_MAGIC):
        raise ValueError("no engine of this cache")
    end = entry.find(b"\n", len(_MAGIC), len(_MAGIC) + _LONGEST_HEADER_BYTES)
    try:
        header = json.loads(entry[len(_MAGIC) : end])
        found, digest, size = dict(header["key"]), header["sha256"], header["bytes"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError("its header is damaged") from error
    if found != key:
        other = sorted(name for name in key if found.get(name) != key[name]) or ["fields"]
        raise ValueError(f"made for another {', '.join(other)}")
    content = entry[end + 1 :]
    if len(content) != size or hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(f"its content is damaged: {len(content)} bytes of {size}")
    return content


def _distrust(status: os.stat_result) -> str | None:
    """Say why a file must not be loaded: an engine is code, so it must be our own."""
    if status.st_uid != os.geteuid():
        return f"it belongs to user {status.st_uid}"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "others may write it"
    return None
