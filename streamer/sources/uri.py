"""Turn one URI into the source that reads it; runs in the decode process and in the CLI.

    clip.mp4, file:///clip.mp4        a file, also .lvc  paced: at media speed, as a camera would
    rtsp://user:${PW}@cam/stream      a network camera   ?transport=udp asks for UDP
    https://host/live.m3u8            HLS, or a file or stream over HTTP
    0, camera:0, /dev/video0          a local camera
    frames/, frames/*.png             pictures, in natural order
    synthetic:...                     the rendered scene with known truth

Opens nothing itself but looks whether local files are there.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from streamer.errors import ConfigError, SourceError
from streamer.sources.base import Source
from streamer.sources.container import ContainerSource, Location
from streamer.sources.images import ImageSource, is_image
from streamer.sources.options import SourceOptions
from streamer.sources.pace import PacedSource
from streamer.sources.redact import redact, resolve_env
from streamer.sources.scheme import CAMERA, HTTP, RTSP, SCHEMES, is_live, scheme

__all__ = ["SourceOptions", "is_live", "open_source"]

_WILDCARDS = re.compile(r"[*?\[]")


def open_source(
    uri: str, *, paced: bool | None = None, options: SourceOptions | None = None
) -> Source:
    """Choose the source for a URI; it is not yet connected, call its open().

    Args:
        uri: see the list above; ${NAME} is taken from the environment.
        paced: True delivers a file at media speed; None and False as fast as it is read. Live
            sources have their own pace.
        options: deadlines, threads, transport and the like.

    Raises:
        ConfigError: no such scheme, or a variable that is not set.
        SourceError: "not_found", "codec" or "corrupt": a local file that can't be one; network
            sources are not contacted yet.
    """
    options = options or SourceOptions()
    uri = resolve_env(uri)
    if scheme(uri) == "synthetic":
        # The renderer is loaded only where it is asked for.
        from streamer.sources.synthetic import SyntheticSource

        return SyntheticSource(uri, paced=bool(paced))
    location = _remote(uri, options)
    if location is not None:
        return ContainerSource(location, options)
    source = _local(uri, options)
    return PacedSource(source) if paced else source


def _remote(uri: str, options: SourceOptions) -> Location | None:
    camera = CAMERA.match(uri)
    if camera:
        device = camera[2] or f"/dev/video{camera[1]}"
        return Location(uri, device, remote=True, live=True, format="v4l2")
    kind = scheme(uri)
    if kind in RTSP:
        return _rtsp(uri, options)
    if kind in HTTP:
        live = None if is_live(uri) else False
        socket_us = str(round(options.open_s * 1e6))
        return Location(uri, uri, remote=True, live=live, demuxer_options=(("timeout", socket_us),))
    if kind not in (None, "file"):
        near = difflib.get_close_matches(kind or "", SCHEMES, 1)
        raise ConfigError(
            f"{redact(uri)}: unknown scheme {kind!r}; "
            + (f"did you mean {near[0]}: ?" if near else f"one of {', '.join(SCHEMES)}")
        )
    return None


def _rtsp(uri: str, options: SourceOptions) -> Location:
    parts = urlsplit(uri)
    query = parse_qsl(parts.query, keep_blank_values=True)
    transport = dict(query).get("transport", options.transport)
    if transport not in ("tcp", "udp"):
        raise ConfigError(f"{redact(uri)}: transport must be tcp or udp, got {transport!r}")
    ours_removed = [(name, value) for name, value in query if name != "transport"]
    if len(ours_removed) != len(query):
        parts = parts._replace(query=urlencode(ours_removed))
    settings = (
        ("rtsp_transport", transport),
        ("timeout", str(round(max(options.open_s, options.read_s) * 1e6))),
        ("fpsprobesize", "0"),
        ("analyzeduration", str(round(options.open_s / 4 * 1e6))),
    )
    return Location(uri, urlunsplit(parts), remote=True, live=True, demuxer_options=settings)


def _local(uri: str, options: SourceOptions) -> Source:
    path = Path(unquote(urlsplit(uri).path) if scheme(uri) == "file" else uri).expanduser()
    if path.is_dir() or (_WILDCARDS.search(path.name) and not path.exists()):
        return ImageSource(path, fps=options.fps)
    _require(path, uri)
    if path.stat().st_size == 0 and path.is_file():
        raise SourceError(f"{path}: the file is empty", reason="corrupt", permanent=True)
    if is_image(path):
        return ImageSource(path, fps=options.fps)
    if path.suffix.lower() == ".lvc":
        # Networks are loaded only where they are asked for.
        from streamer.sources.learned import LvcSource

        return LvcSource(path)
    demuxer_options: tuple[tuple[str, str], ...] = ()
    if options.fps and path.suffix.lower() in (".264", ".h264", ".265", ".h265", ".hevc"):
        demuxer_options = (("framerate", str(options.fps)),)
    # The prefix keeps a colon or a % in a file name from being read as a protocol or a pattern.
    return ContainerSource(
        Location(
            str(path), f"file:{path}", remote=False, live=False, demuxer_options=demuxer_options
        ),
        options,
    )


def _require(path: Path, uri: str) -> None:
    if path.exists():
        return
    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, siblings, 1)
    if near:
        hint = f"did you mean {path.parent / near[0]}?"
    elif path.parent.is_dir():
        hint = f"the folder {path.parent} has no such file"
    else:
        hint = f"the folder {path.parent} does not exist either"
    raise SourceError(f"{redact(uri)}: no such file; {hint}", reason="not_found", permanent=True)
