"""Download one file and trust it only by its hash: resumed where it broke, renamed when whole.

What has arrived lies in NAME.part beside the target; the target itself is only ever the whole file.
"""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from engines.errors import DownloadFailed

Progress = Callable[[int, "int | None"], None]
"""Called with the bytes that are here and the bytes of the whole file, where the server says."""

_TRIES = 4
_TIMEOUT_S = 30.0
_CHUNK_BYTES = 1 << 16
_SHORTEST_HASH = 8
_RANGE_REFUSED = 416


def download(
    address: str,
    target: Path,
    sha256: str,
    *,
    progress: Progress | None = None,
    timeout_s: float = _TIMEOUT_S,
) -> None:
    """Fetch a file, or finish fetching it.

    Args:
        address: http:// or https://.
        target: file to write; it appears when its hash is right, and not before.
        sha256: of the content in hexadecimal, or the first digits of it, eight at least.
        progress: hears how far it is.
        timeout_s: of silence after which a connection is given up.

    Raises:
        DownloadFailed: there is no such file, the transfer broke several times (what has arrived is
            kept for the next call), the content is not what the hash says, or the folder can't be
            written.
        ValueError: the address or the hash makes no sense.
    """
    if urlsplit(address).scheme not in ("http", "https"):
        raise ValueError(f"address must begin with http:// or https://, got {address!r}")
    if len(sha256) < _SHORTEST_HASH or not set(sha256) <= set("0123456789abcdef"):
        raise ValueError(
            f"sha256 must be at least {_SHORTEST_HASH} hexadecimal digits, got {sha256!r}"
        )
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        resumed = part.exists()
        _fetch(address, part, progress, timeout_s)
        if resumed and not _is(part, sha256):  # the file upstream may have changed in between
            part.unlink()
            _fetch(address, part, progress, timeout_s)
        if not _is(part, sha256):
            found = _hash(part)
            part.unlink()
            raise DownloadFailed(
                f"{address}: SHA-256 must begin with {sha256}, got {found}; nothing was kept. The "
                "file was changed on its way or upstream: don't use it"
            )
        part.replace(target)
    except OSError as error:
        if isinstance(error, DownloadFailed):
            raise
        raise DownloadFailed(
            f"{target.parent}: must be a folder that can be written, got {error.strerror}; free "
            "some space, or set STREAMER_MODELS to another folder"
        ) from error


def _fetch(address: str, part: Path, progress: Progress | None, timeout_s: float) -> None:
    """Bring the partial file to its end, beginning where it ends now."""
    broken: Exception | None = None
    for _ in range(_TRIES):
        before = part.stat().st_size if part.exists() else 0
        try:
            _transfer(address, part, progress, timeout_s)
        except urllib.error.HTTPError as error:
            if error.code == _RANGE_REFUSED and before:
                return  # nothing is behind what we have; its hash decides
            raise DownloadFailed(
                f"{address}: server must give the file, got {error.code} {error.reason}; check the "
                "address, or try again later"
            ) from error
        except (
            urllib.error.URLError,
            http.client.HTTPException,
            ConnectionError,
            TimeoutError,
        ) as error:
            broken = error
        else:
            return
    here = part.stat().st_size if part.exists() else 0
    raise DownloadFailed(
        f"{address}: transfer must come to its end, but broke {_TRIES} times, the last time with "
        f"{broken}; {here} bytes are kept: run it again to go on from there"
    ) from broken


def _transfer(address: str, part: Path, progress: Progress | None, timeout_s: float) -> None:
    here = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "streamer", "Accept-Encoding": "identity"}
    if here:
        headers["Range"] = f"bytes={here}-"
    request = urllib.request.Request(address, headers=headers)  # noqa: S310 - scheme was checked
    with urllib.request.urlopen(request, timeout=timeout_s) as answer:  # noqa: S310
        continued = answer.status == http.HTTPStatus.PARTIAL_CONTENT
        here = here if continued else 0
        length = answer.headers.get("Content-Length")
        whole = here + int(length) if length is not None and length.isdigit() else None
        with part.open("ab" if continued else "wb") as file:
            while chunk := answer.read(_CHUNK_BYTES):
                file.write(chunk)
                here += len(chunk)
                if progress is not None:
                    progress(here, whole)
    if whole is not None and here < whole:
        raise http.client.IncompleteRead(b"", whole - here)


def _is(path: Path, sha256: str) -> bool:
    return _hash(path).startswith(sha256)


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
