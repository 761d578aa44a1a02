"""`streamer check`: read a configuration, look at its sources, and say what a run would use."""

from __future__ import annotations

from collections.abc import Sequence

from engines.errors import EngineError
from engines.load import choose_library
from engines.zoo import find_model
from streamer.cli.main import make_parser
from streamer.config import Config
from streamer.configfile import load_config
from streamer.errors import ConfigError, SourceError
from streamer.graph import Graph, build_graph
from streamer.memory import memory_available_bytes
from streamer.sources.base import SourceInfo
from streamer.sources.redact import redact
from streamer.sources.scheme import is_live
from streamer.sources.uri import open_source


def main(arguments: Sequence[str]) -> int:
    """Check one configuration; exit code 0 only if a run could begin."""
    parser = make_parser("check")
    parser.add_argument("config", help="configuration file (.yaml)")
    options = parser.parse_args(arguments)
    config = load_config(options.config)
    print(f"{options.config}: the configuration is valid")
    live = {
        name: is_live(camera.source) if camera.regime == "auto" else camera.regime == "live"
        for name, camera in config.cameras.items()
    }
    graph = build_graph(config, live)
    reachable = [_check_camera(graph, camera) for camera in config.cameras]
    needed = sum(size for size in reachable if size)
    available = memory_available_bytes()
    print(f"memory: pools {needed / 1e6:.0f} MB of {available / 1e6:.0f} MB available")
    _check_detector(config)
    print(f"processes: {', '.join(stage.name for stage in graph.stages)}")
    if needed > available:
        raise ConfigError("memory: the pools don't fit; use fewer cameras or smaller pictures")
    return 0 if all(reachable) else 3


def _check_camera(graph: Graph, camera: str) -> int:
    """Open one source and print its plan; returns its pool's bytes, 0 if it can't be opened."""
    uri = graph.config.cameras[camera].source
    regime = "live" if graph.live[camera] else "offline"
    try:
        info = _look(uri)
    except SourceError as error:
        print(f"camera {camera}: {redact(str(error))} ({error.reason})")
        return 0
    size = graph.pool_bytes(camera, info.width, info.height)
    print(
        f"camera {camera}: {redact(uri)}: {info.codec} {info.width}x{info.height}, {regime}, "
        f"{graph.slots(camera)} slots, {size / 1e6:.0f} MB"
    )
    return size


def _look(uri: str) -> SourceInfo:
    source = open_source(uri)
    try:
        return source.open()
    finally:
        source.close()


def _check_detector(config: Config) -> None:
    if config.detector is None:
        print("detector: none")
        return
    try:
        path = find_model(config.detector.model)
        library = choose_library(config.detector.device)
    except (EngineError, ValueError) as error:
        raise ConfigError(f"detector: {error}") from error
    print(f"detector: {path} by {library} on {config.detector.device}")
