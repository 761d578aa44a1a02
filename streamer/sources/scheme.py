"""Tell from a URI alone what kind of source it is; imports no library, so that anyone may ask."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

RTSP = ("rtsp", "rtsps")
HTTP = ("http", "https")
SCHEMES = ("file", *RTSP, *HTTP, "camera", "synthetic")
CAMERA = re.compile(r"^(?:camera:)?(\d+)$|^(/dev/video\d+)$")
_SCHEME = re.compile(r"^([a-z][a-z0-9+.-]+):", re.IGNORECASE)
_FILE_SUFFIXES = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v")


def scheme(uri: str) -> str | None:
    """The scheme in lower case, or None for a path."""
    match = _SCHEME.match(uri)
    return match[1].lower() if match else None


def is_live(uri: str) -> bool:
    """Say whether a URI names something that goes on whether we read it or not."""
    if scheme(uri) in HTTP:
        return not urlsplit(uri).path.lower().endswith(_FILE_SUFFIXES)
    return scheme(uri) in RTSP or CAMERA.match(uri) is not None


def read_by_name(uri: str) -> bool:
    """Say whether a URI names something on this disk."""
    return scheme(uri) in (None, "file") and CAMERA.match(uri) is None
