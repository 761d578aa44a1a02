"""`streamer run` and `streamer demo`: turn options into a configuration and supervise its run."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import msgspec

from streamer.cli.main import EPILOG, make_parser
from streamer.cli.status import StatusLine, describe
from streamer.config import Config, check_address
from streamer.configfile import build_config, load_config
from streamer.encoding import Codecs
from streamer.errors import ConfigError, StageFailed
from streamer.graph import build_graph
from streamer.sources.scheme import is_live, read_by_name
from streamer.supervisor import Supervisor


def main(arguments: Sequence[str]) -> int:
    """Parse `streamer run` and run it."""
    parser = make_parser("run", epilog=EPILOG)
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="one configuration (.yaml), or sources: a file, rtsp(s)://, http(s)://, a camera "
        "index, a folder or glob of pictures, synthetic:street?...",
    )
    add_options(parser)
    options = parser.parse_args(arguments)
    return run(configure(options.sources, options), options)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options that `run` and `demo` share; each overrides the configuration file."""
    where = parser.add_argument_group("outputs")
    where.add_argument(
        "--out",
        metavar="FILE",
        help="annotated video, .mp4 (H.264 veryfast crf 23); is overwritten",
    )
    where.add_argument("--record", metavar="DIR", help="segments of a minute, named by UTC time")
    where.add_argument("--events", metavar="FILE", help="events as JSON lines, appended")
    where.add_argument("--publish", metavar="ADDR", help="events on a ZeroMQ PUB socket")
    where.add_argument(
        "--log",
        metavar="FILE",
        help="durable log of events, or off; default one for this host where a camera is live",
    )
    where.add_argument(
        "--codec",
        choices=get_args(Codecs),
        metavar="CODEC",
        help="of the video: h264 (default), hevc, av1, learned (.lvc, see `streamer codec`), or "
        "h264+learned and so on for both beside each other",
    )
    what = parser.add_argument_group("what to do")
    what.add_argument(
        "--detector",
        metavar="NAME|PATH.onnx",
        help="which network looks; default street, see `streamer doctor`",
    )
    what.add_argument("--device", metavar="DEV", help="auto (default), cpu or cuda:0")
    what.add_argument("--duration", type=float, metavar="S", help="stop after so many seconds")
    regime = what.add_mutually_exclusive_group()
    regime.add_argument(
        "--live", action="store_true", help="newest frame wins; a file is played at its own speed"
    )
    regime.add_argument(
        "--offline", action="store_true", help="every frame is processed, as fast as it goes"
    )
    parser.add_argument("--json", action="store_true", help="end with one JSON object on stdout")


def configure(sources: Sequence[str], options: argparse.Namespace) -> Config:
    """The configuration that the command line describes.

    Raises:
        ConfigError: a source is given twice, or an option does not fit the configuration.
    """
    if len(sources) == 1 and sources[0].endswith((".yaml", ".yml")):
        config = load_config(sources[0])
    else:
        duplicates = {source for source in sources if sources.count(source) > 1}
        if duplicates:
            raise ConfigError(f"source given twice: {', '.join(duplicates)}; name it once")
        names = _names(sources)
        config = build_config({"cameras": dict(zip(names, sources, strict=True))})
    return _override(config, options)


def run(config: Config, options: argparse.Namespace) -> int:
    """Run until the end, a signal or a failure; returns the exit code."""
    live = {
        name: is_live(camera.source) if camera.regime == "auto" else camera.regime == "live"
        for name, camera in config.cameras.items()
    }
    status = StatusLine(sys.stderr)
    supervisor = Supervisor(build_graph(config, live), on_status=status.show)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: supervisor.request_stop())
    outcome = supervisor.run()
    status.close()
    for error in outcome.errors:
        print(f"streamer: error: {error}", file=sys.stderr)
    if options.json:
        print(msgspec.json.encode(outcome.summary).decode(), flush=True)
    elif outcome.summary.frames_in or not outcome.errors:
        print(describe(outcome.summary), flush=True)
    return 130 if outcome.killed else _exit_code(outcome.errors)


def _exit_code(errors: Sequence[StageFailed]) -> int:
    if not errors:
        return 0
    if any(error.kind in ("ConfigError", "ModelError", "EngineUnavailable") for error in errors):
        return 2
    return 3 if all(error.kind == "SourceError" for error in errors) else 4


def _names(sources: Sequence[str]) -> list[str]:
    """A name for each source: of its file where it has one, else a number."""
    names: list[str] = []
    for number, source in enumerate(sources, 1):
        stem = Path(source).stem if read_by_name(source) else ""
        name = "".join(c if c.isalnum() and c.isascii() else "_" for c in stem)[:40].strip("_")
        names.append(name if name and name not in names else f"camera{number}")
    return names


def _override(config: Config, options: argparse.Namespace) -> Config:
    """Put what the command line says in place of what the file says."""
    replace = msgspec.structs.replace
    cameras = config.cameras
    if options.out:
        if len(cameras) > 1:
            raise ConfigError(
                f"--out: there are {len(cameras)} cameras, and one file can't hold them; "
                "use --record DIR, or give each camera its own `out` in the configuration"
            )
        cameras = {name: replace(camera, out=options.out) for name, camera in cameras.items()}
    if options.live or options.offline:
        regime = "live" if options.live else "offline"
        cameras = {name: replace(camera, regime=regime) for name, camera in cameras.items()}
    detector = config.detector
    if detector:
        detector = replace(
            detector,
            model=options.detector or detector.model,
            device=options.device or detector.device,
        )
    if options.publish:
        check_address(options.publish, allow_remote=config.events.allow_remote)
    if options.duration is not None and options.duration <= 0:
        raise ConfigError(f"--duration: must be above 0, got {options.duration}; leave it out")
    return replace(
        config,
        cameras=cameras,
        detector=detector,
        encode=replace(config.encode, codec=options.codec or config.encode.codec),
        record=replace(config.record, folder=options.record or config.record.folder),
        events=replace(
            config.events,
            file=options.events or config.events.file,
            publish=options.publish or config.events.publish,
            log=options.log or config.events.log,
        ),
        duration_s=options.duration or config.duration_s,
    )
