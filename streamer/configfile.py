"""Turn a YAML file or command-line options into one checked configuration; imports no stage.

What is wrong is one ConfigError with file, line and path, and the nearest key that is known.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar, get_args, get_origin

import msgspec

from streamer.config import Config
from streamer.errors import ConfigError
from streamer.sources.redact import redact
from streamer.strict import NAME_PATTERN, Strict

if TYPE_CHECKING:
    from yaml import SafeLoader
    from yaml.nodes import Node

T = TypeVar("T")


def load_config(path: str | Path) -> Config:
    """Read and check a YAML file.

    Raises:
        ConfigError: with file, line and path of what is wrong, and the nearest key that is known.
    """
    import yaml  # only here: options of the command line need no YAML

    try:
        text = Path(path).read_text(encoding="utf-8")
        loader = _loader()
        root = yaml.compose(text, Loader=loader)
        data = yaml.load(text, Loader=loader)  # noqa: S506 - it is a SafeLoader
        _refuse_duplicates(root, str(path))
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}; check the path") from error
    except ConfigError:
        raise
    except (yaml.YAMLError, ValueError) as error:  # the latter for a date that is none
        where = getattr(error, "problem_mark", None)
        line = f":{where.line + 1}" if where else ""
        problem = getattr(error, "problem", None) or error
        raise ConfigError(f"{path}{line}: not YAML: {problem}; mend it there") from error
    try:
        return build_config(data)
    except _At as error:
        raise ConfigError(f"{path}:{_line_of(root, error.path)}: {error}") from error
    except ConfigError as error:
        where_path = tuple(str(error).partition(":")[0].split("."))
        raise ConfigError(f"{path}:{_line_of(root, where_path)}: {error}") from error


def _loader() -> type[SafeLoader]:
    """YAML as people know it: only true and false are truth values, `on` and `no` are words."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    Loader.yaml_implicit_resolvers = {
        first: [pair for pair in pairs if pair[0] != "tag:yaml.org,2002:bool"]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    truth = re.compile("true|True|TRUE|false|False|FALSE")
    Loader.add_implicit_resolver("tag:yaml.org,2002:bool", truth, list("tTfF"))
    return Loader


def build_config(data: object) -> Config:
    """Check plain data (of YAML or of the command line) and make it a Config.

    A camera may be given as its source alone.
    """
    if not isinstance(data, Mapping):
        raise _At((), "must be a mapping with the key `cameras`; see configs/two_cameras.yaml")
    data = dict(data)
    cameras = data.get("cameras")
    if not isinstance(cameras, Mapping):
        raise _At(("cameras",), "must map names to sources, such as `gate: rtsp://host/path`")
    data["cameras"] = {str(name): _camera_section(camera) for name, camera in cameras.items()}
    _refuse_unknown(data, Config, ())
    for field in msgspec.structs.fields(Config):
        section = data.get(field.name)
        if get_origin(field.type) is dict and isinstance(section, Mapping):
            _convert_named(section, get_args(field.type)[1], (field.name,))
        elif field.name in data:
            _convert(section, field.type, (field.name,))
    return _convert(data, Config, ())


def _camera_section(camera: object) -> object:
    """Let a camera be given as its source alone, and as a number where that is its index."""
    if isinstance(camera, str) or type(camera) is int:
        return {"source": str(camera)}
    if isinstance(camera, Mapping) and type(camera.get("source")) is int:
        return {**camera, "source": str(camera["source"])}
    return camera


class _At(ConfigError):
    """A ConfigError that knows the path of what is wrong."""

    def __init__(self, path: tuple[str, ...], text: str) -> None:
        super().__init__(redact(f"{'.'.join(path) or 'configuration'}: {text}"))
        self.path = path


def _convert_named(data: Mapping[object, object], kind: type[T], path: tuple[str, ...]) -> None:
    """Check the sections of a mapping one by one, for errors that say which of them it is."""
    for name, section in data.items():
        if not re.match(NAME_PATTERN, str(name)):
            raise _At((*path, str(name)), "a name must be 1 to 40 of A-Z a-z 0-9 _ -; rename it")
        _convert(section, kind, (*path, str(name)))


def _convert(data: object, kind: type[T], path: tuple[str, ...]) -> T:
    for section in (kind, *get_args(kind)):
        if isinstance(section, type) and issubclass(section, Strict) and isinstance(data, Mapping):
            for field in msgspec.structs.fields(section):
                named = data.get(field.name) if section is not Config else None
                if isinstance(named, Mapping) and get_origin(field.type) is dict:
                    _convert_named(named, get_args(field.type)[1], (*path, field.name))
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, ConfigError):
            raise error.__cause__ from None
        text, _, inner = str(error).partition(" - at `$")
        inner_path = tuple(re.findall(r"[^.\[\]`]+", inner))
        if "missing required" in text:
            raise _At(path + inner_path, f"{text[:1].lower()}{text[1:]}; add it") from error
        allowed, got = _choices(kind, inner_path), _value_at(data, inner_path)
        expected = f"{text[:1].lower()}{text[1:]}".partition(", got ")[0]
        rule = f"must be one of {', '.join(allowed)}" if allowed else expected
        raise _At(
            path + inner_path, f"{rule}, got {got!r}; mend the value or leave the key out"
        ) from error


def _value_at(data: object, path: tuple[str, ...]) -> object:
    for part in path:
        if isinstance(data, Mapping):
            data = data.get(part)
        elif isinstance(data, list) and part.isdecimal():
            data = data[int(part)]
    return data


def _choices(kind: object, path: tuple[str, ...]) -> tuple[str, ...]:
    """The choices of a Literal field, or nothing."""
    if get_origin(kind) is Literal:
        return () if path else get_args(kind)
    tags = [
        str(part.__struct_config__.tag)
        for part in get_args(kind)
        if getattr(part, "__struct_config__", None) and path == (part.__struct_config__.tag_field,)
    ]
    if tags:
        return tuple(tags)
    if isinstance(kind, type) and issubclass(kind, Strict):
        types = {field.name: field.type for field in msgspec.structs.fields(kind)}
        return _choices(types[path[0]], path[1:]) if path and path[0] in types else ()
    inner = path[1:] if get_origin(kind) in (tuple, dict) else path
    return next((found for part in get_args(kind) if (found := _choices(part, inner))), ())


def _refuse_unknown(data: object, kind: object, path: tuple[str, ...]) -> None:
    """Refuse keys that no section has, at any depth."""
    if isinstance(kind, type) and issubclass(kind, Strict) and isinstance(data, Mapping):
        types = {field.name: field.type for field in msgspec.structs.fields(kind)}
        tag_field, tag = kind.__struct_config__.tag_field, kind.__struct_config__.tag
        if tag_field and data.get(tag_field) != tag:
            return  # it is a section of another kind
        for key, value in data.items():
            if key not in types and key != tag_field:
                near = difflib.get_close_matches(str(key), types, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(types)}"
                raise _At((*path, str(key)), f"unknown key; {hint}")
            _refuse_unknown(value, types.get(key), (*path, key))
    for part in get_args(kind):
        if get_origin(kind) is dict and isinstance(data, Mapping):
            for key, value in data.items():
                _refuse_unknown(value, part, (*path, str(key)))
        elif get_origin(kind) is tuple and isinstance(data, list):
            for index, value in enumerate(data):
                _refuse_unknown(value, part, (*path, str(index)))
        else:
            _refuse_unknown(data, part, path)


def _refuse_duplicates(root: Node | None, file: str) -> None:
    """YAML would silently keep the last of two equal keys."""
    from yaml.nodes import MappingNode

    if not isinstance(root, MappingNode):
        return
    lines: dict[str, int] = {}
    for key, value in root.value:
        name, line = str(key.value), key.start_mark.line + 1
        if name in lines:
            raise ConfigError(
                redact(f"{file}:{line}: {name}: given twice, first in line {lines[name]}; ")
                + "remove or rename one of them"
            )
        lines[name] = line
        _refuse_duplicates(value, file)


def _line_of(root: Node | None, path: tuple[str, ...]) -> int:
    """Line, from 1, of the deepest node on the path that the file has."""
    from yaml.nodes import MappingNode, SequenceNode

    line = 1
    for part in path:
        if isinstance(root, SequenceNode) and part.isdecimal():
            root = root.value[int(part)]
            line = root.start_mark.line + 1
            continue
        entries = root.value if isinstance(root, MappingNode) else []
        found = next(((key, value) for key, value in entries if key.value == part), None)
        if found is None:
            break
        line, root = found[0].start_mark.line + 1, found[1]
    return line
