"""`streamer check`: read a configuration, look at its sources, and say what a run would use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from engines.cascade.runtime import find_cascade
from engines.cascade.signature import FILES
from engines.errors import EngineError
from engines.load import DEVICES, choose_library
from engines.onnxfile import read_metadata
from engines.zoo import find_codec, find_model
from streamer.cli.main import make_parser
from streamer.config import ActionsConfig, Config, SegmenterConfig
from streamer.configfile import load_config
from streamer.errors import ConfigError, SourceError
from streamer.graph import Graph, build_graph
from streamer.memory import memory_available_bytes
from streamer.sources.base import SourceInfo
from streamer.sources.redact import redact
from streamer.sources.scheme import is_live
from streamer.sources.uri import open_source
from streamer.surfaces import Surface
from streamer.view import check_surfaces


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
    _check_networks(config)
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


def _check_networks(config: Config) -> None:
    """Print which network runs where, for each section that has one."""
    detector = config.detector
    if detector is None:
        print("detector: none")
    else:
        _print_engine("detector", detector.model, detector.device)
        for number, step in enumerate(detector.then):
            _print_engine(f"detector.then[{number}]", step.model, detector.device)
        if config.tracker.reid:
            _print_engine("tracker.reid", config.tracker.reid, detector.device)
    if config.actions is not None:
        _check_actions(config.actions)
    if config.segmenter is not None:
        _check_segmenter(config, config.segmenter)
    if "learned" in config.encode.codecs and any(map(config.writes, config.cameras)):
        learned = config.encode.learned
        _print_engine("encode.learned", learned.model, learned.device, find=find_codec)


def _check_actions(actions: ActionsConfig) -> None:
    """Also whether the network is for this scope, and knows the actions that are asked for."""
    about = read_metadata(_print_engine("actions", actions.model, actions.device))
    scope, classes = about.get("scope", "none"), about.get("classes", "").split(",")
    if scope != actions.scope:
        raise ConfigError(
            f"actions.scope: must be {scope} for {actions.model}, got {actions.scope}; change it, "
            "or choose another model"
        )
    unknown = [name for name in actions.classes if name not in classes]
    if unknown:
        raise ConfigError(
            f"actions.classes: must be of {', '.join(classes)}, got {', '.join(unknown)}; drop them"
        )


def _check_segmenter(config: Config, segmenter: SegmenterConfig) -> None:
    """Also whether it knows the surfaces that are asked for, as far as that can be seen."""
    folder = _print_engine("segmenter", segmenter.model, segmenter.device, find=find_cascade)
    try:
        about = [read_metadata(folder / file) for file in FILES]
    except EngineError as error:
        raise ConfigError(f"segmenter: {error}") from error
    classes = tuple(about[0].get("classes", "").split(","))
    for name, rule in segmenter.surfaces.items():
        try:
            Surface(name, rule, classes)
        except ValueError as error:
            raise ConfigError(str(error)) from error
    for name, camera in config.cameras.items():
        check_surfaces(f"cameras.{name}", camera.zones, camera.lines, classes)


def _print_engine(
    where: str, model: str, device: str, *, find: Callable[[str], Path] = find_model
) -> Path:
    """One network: its file, the library and the device; the file."""
    match = DEVICES.fullmatch(device.lower())
    if match is None:
        raise ConfigError(
            f"{where}.device: must be auto, cpu, gpu[.N], npu or cuda[:N], with openvino:, "
            f"onnxruntime: or tensorrt: before it to force a library, got {device!r}"
        )
    library = match[1] or choose_library(match[2])
    if find_spec(library) is None:
        raise ConfigError(f"{where}.device: {device} needs {library}; pip install {library}")
    try:
        path = find(model)
    except EngineError as error:
        raise ConfigError(f"{where}: {error}") from error
    print(f"{where}: {path} by {library} on {'cpu' if match[2] == 'auto' else match[2]}")
    return path
