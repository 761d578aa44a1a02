"""Floors and homes: who may import whom, read from the source text alone.

Every import counts, those inside functions too. The design names the floors; where a name stands
here beside its floor, the comment says why.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("streamer", "engines")

FLOORS: tuple[tuple[str, ...], ...] = (
    # From the ground up; a name stands for all that begins with it, the longest match counts.
    (
        "streamer",  # its version, nothing else
        "streamer.errors",
        "streamer.sources.scheme",  # what a URI's text says; imports nothing
    ),
    (
        "streamer.bridges.section",
        "streamer.memory",
        "streamer.encoding",
        "streamer.outlets",
        "streamer.overtime",
        "streamer.rules.section",
        "streamer.sources.redact",  # passwords are hidden on every floor
        "streamer.view",
        "streamer.strict",
    ),
    ("streamer.config", "streamer.messages", "streamer.planes", "streamer.histogram"),
    (
        "streamer.analytics",
        "streamer.bridge_events",
        "streamer.bridges",
        "streamer.client",
        "streamer.configfile",
        "streamer.annotation_events",
        "streamer.event",
        "streamer.eventfile",
        "streamer.eventlog",
        "streamer.events",
        "streamer.frame_events",
        "streamer.frames",
        "streamer.graph",
        "streamer.inference",
        "streamer.join",
        "streamer.ledger",
        "streamer.log_events",
        "streamer.overlay",
        "streamer.outlines",
        "streamer.painter",
        "streamer.queues",
        "streamer.replay",
        "streamer.rule_events",
        "streamer.rules",
        "streamer.view_events",
        "streamer.sequence",
        "streamer.sinks",
        "streamer.sources",
        "streamer.summary",
        "streamer.surfaces",
        "streamer.unfinished",
        "streamer.tracking",
    ),
    ("streamer.annotator", "streamer.stage"),
    ("streamer.child", "streamer.stages", "streamer.supervisor"),
    ("streamer.cli",),
)

STRANGERS = (
    # What may stand on one floor and still not know of each other.
    ("streamer.supervisor", "streamer.stages"),
    ("streamer.child", "streamer.stages"),
    ("streamer.queues", "streamer.sources"),
    ("streamer.queues", "streamer.sinks"),
    ("streamer.queues", "streamer.overlay"),
    ("streamer.queues", "streamer.tracking"),
    ("streamer.tracking", "streamer.sources"),
    ("streamer.tracking", "streamer.sinks"),
    ("streamer.tracking", "streamer.overlay"),
    ("streamer.sources", "streamer.overlay"),
    ("streamer.analytics", "streamer.tracking"),
    ("streamer.analytics", "streamer.queues"),
    ("streamer.analytics", "streamer.sources"),
    ("streamer.analytics", "streamer.overlay"),
    ("streamer.rules", "streamer.sinks"),
    ("streamer.rules", "streamer.bridges"),
)

_OFFLINE = {
    # Files of engines that no running pipeline needs; all others are runtime.
    "engines": "export quantize training",
    "engines.classifiers": "describe evaluate export model pack train",
    "engines.cascade": "blocks dense evaluate examples export layers metrics model pack prior "
    "published region restore rule small train",
    "engines.codec": "checkpoint costs dvc dvc_export evaluate export fit layers pack "
    "peers plot probes recipe restore rt shards share textures train train_dvc training transforms",
    "engines.detectors": "agreement calibrate evaluate examples export loss model pack restore "
    "torchvision_export train",
    "engines.off": "augment backbones colour config confusion costs crossvalidate evaluate export "
    "features metrics model pack pretrain shards street_test teacher train variants warm weights",
    "engines.reid": "free_batch",
}
OFFLINE_MODULES = {
    f"{package}.{name}" for package, names in _OFFLINE.items() for name in names.split()
}
ABOVE_ENGINES = ("pack", "train", "export", "evaluate", "agreement", "probes", "street_test")
"""Offline files that stand above streamer's sources and sinks."""
SEEN_FROM_ENGINES = (
    "streamer.errors", "streamer.planes", "streamer.sources", "streamer.sinks",
)  # fmt: skip

HOMES: dict[str, tuple[str, ...]] = {
    # Who may import what is not ours; OFFLINE stands for all offline files.
    "av": (
        "streamer.sources",
        "streamer.sinks",
        "streamer.stages.encode",
        "engines.codec.peers",  # the usual codecs, which ours are compared with
    ),
    "bjontegaard": ("engines.codec.evaluate",),
    "constriction": ("engines.codec",),
    "cuda": ("engines.tensorrt",),
    "cv2": (
        "streamer.sources",
        "streamer.overlay",
        "streamer.tracking.motion",
        "streamer.inference.motion",
        "streamer.stages.encode",  # to keep its threads to one
        "streamer.sinks.learned",
        "streamer.sinks.still",
        "engines.codec.colour",
        "engines.codec.metrics",
        "engines.detectors.outlines",
        "engines.detectors.preprocess",
        "engines.crops",
        "engines.cascade.motion",
        "engines.codec.motion",
        "engines.cascade.picture",
        "engines.off.crops",
        "OFFLINE",
    ),
    "lap": ("streamer.tracking.association",),
    "matplotlib": ("engines.codec.plot",),
    "msgspec": ("streamer",),
    "nncf": ("OFFLINE",),
    "numpy": ("streamer", "engines"),
    "onnx": (
        "engines.precision",  # rewrites a graph before TensorRT compiles it, once
        "engines.feed_graph",
        "engines.codec.fixed",  # gives a graph one size before TensorRT compiles it
        "OFFLINE",
    ),
    "onnxruntime": ("engines.onnxruntime", "engines.quantize"),
    "onnxscript": ("OFFLINE",),
    "onnxsim": ("OFFLINE",),
    "openvino": ("engines.openvino",),
    "paho": ("streamer.bridges.mqtt",),
    "pycocotools": ("engines.detectors.evaluate",),
    "redis": ("streamer.bridges.redis_stream",),
    "tensorrt": ("engines.tensorrt",),
    "torch": ("OFFLINE",),
    "torchvision": ("OFFLINE",),
    "yaml": ("streamer.configfile", "engines.detectors.evaluate", "engines.registry"),
    "zmq": (
        "streamer.queues",
        "streamer.stage",
        "streamer.supervisor",
        "streamer.client",
        "streamer.replay",
        "streamer.stages.publish",
    ),
}

LONG_FILES = {
    # Over 400 lines, and why that is easier to read than two files.
    "streamer/queues.py": "both ends of one protocol",
    "streamer/supervisor.py": "one loop and its ladder, from birth to death",
    "engines/codec/rt.py": "a whole model",
    "engines/off/model.py": "a whole model",
}
LONGEST_LINES = 550


@dataclass(frozen=True)
class Import:
    """One import: who, of what, where."""

    importer: str
    imported: str
    line: int

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


def name_of(path: Path) -> str:
    """Dotted name of a file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def sources() -> dict[str, Path]:
    """All modules by dotted name."""
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    return {name_of(file): file for file in sorted(files)}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports_of(name: str) -> Iterator[Import]:
    """All imports of one module, at any depth of its code."""
    for node in ast.walk(tree(sources()[name])):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(name, alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno}: relative import"
            assert node.module is not None
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield Import(name, whole if whole in sources() else node.module, node.lineno)


@cache
def imports() -> tuple[Import, ...]:
    return tuple(each for name in sources() for each in imports_of(name))


def within(name: str, prefix: str) -> bool:
    """True if a dotted name is this one or below it."""
    return name == prefix or name.startswith(prefix + ".")


def floor_of(name: str) -> int:
    """Number of the floor of a module of streamer, from the ground up."""
    found = [
        (len(prefix), number)
        for number, prefixes in enumerate(FLOORS)
        for prefix in prefixes
        if name == prefix or (prefix != "streamer" and within(name, prefix))
    ]
    assert found, f"{name}: stands on no floor; add it to FLOORS in tests/test_floors.py"
    return max(found)[1]


def none(broken: list[str]) -> None:
    """Fail with all that is broken, not only the first."""
    assert not broken, "\n" + "\n".join(broken)


def test_there_is_something_to_check() -> None:
    assert len(sources()) > 80
    assert len(imports()) > 400
    assert any(
        (each.importer, each.imported) == ("streamer.configfile", "yaml") for each in imports()
    ), "imports inside functions are seen"


def test_imports_point_down() -> None:
    none(
        [
            f"{each}: up from floor {floor_of(each.importer)} to {floor_of(each.imported)}"
            for each in imports()
            if within(each.importer, "streamer")
            and within(each.imported, "streamer")
            and floor_of(each.imported) > floor_of(each.importer)
        ]
    )


def test_strangers_do_not_know_each_other() -> None:
    allowed = FLOORS[0] + FLOORS[1]
    none(
        [
            str(each)
            for each in imports()
            for one, other in STRANGERS
            for importer, imported in ((one, other), (other, one))
            if within(each.importer, importer)
            and within(each.imported, imported)
            and each.imported not in allowed
        ]
    )


def test_stages_never_import_each_other() -> None:
    none(
        [
            str(each)
            for each in imports()
            if within(each.imported, "streamer.stages") and each.importer != each.imported
        ]
    )


def test_there_is_no_cycle() -> None:
    graph: dict[str, set[str]] = {name: set() for name in sources()}
    for each in imports():
        if each.imported in graph and each.imported != each.importer:
            graph[each.importer].add(each.imported)
    done: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for imported in graph[name]:
                walk(imported, (*path, name))
            done.add(name)

    for name in graph:
        walk(name, ())


def test_engines_at_run_time_know_nothing_of_streamer() -> None:
    none(
        [
            str(each)
            for each in imports()
            if within(each.importer, "engines")
            and within(each.imported, "streamer")
            and (
                each.importer not in OFFLINE_MODULES
                or each.importer.rpartition(".")[2] not in ABOVE_ENGINES
                or not any(within(each.imported, seen) for seen in SEEN_FROM_ENGINES)
            )
        ]
    )


def test_nothing_at_run_time_imports_what_is_offline() -> None:
    none(
        [
            str(each)
            for each in imports()
            if each.imported in OFFLINE_MODULES and each.importer not in OFFLINE_MODULES
        ]
    )
    assert set(sources()) >= OFFLINE_MODULES


def test_training_runs_anywhere_that_has_torch_numpy_and_cv2() -> None:
    allowed = {"torch", "torchvision", "numpy", "cv2"} | sys.stdlib_module_names
    for package in (name for name in _OFFLINE if f"{name}.train" in sources()):
        reached, waiting = set(), [f"{package}.train"]
        while waiting:
            name = waiting.pop()
            reached.add(name)
            for each in imports_of(name):
                if each.imported in sources() and each.imported not in reached:
                    waiting.append(each.imported)
                elif each.imported not in sources():
                    assert each.imported.partition(".")[0] in allowed, str(each)
        assert not any(within(name, "streamer") for name in reached)


def test_what_is_not_ours_stays_at_home() -> None:
    broken = []
    for each in imports():
        library = each.imported.partition(".")[0]
        if library in PACKAGES or library in sys.stdlib_module_names:
            continue
        homes = HOMES.get(library, ())
        at_home = any(within(each.importer, home) for home in homes)
        if not at_home and not ("OFFLINE" in homes and each.importer in OFFLINE_MODULES):
            broken.append(f"{each}: its home is {', '.join(homes) or 'nowhere; give it one'}")
    none(broken)


LIGHT = {
    # What starts at once, and the libraries that would make it slow.
    "streamer.supervisor": "av cv2 engines.load numpy onnxruntime openvino tensorrt torch yaml",
    "streamer.graph": "av cv2 engines numpy onnxruntime openvino tensorrt torch yaml",
    "streamer.cli.main": "av cv2 engines.load numpy onnxruntime openvino torch yaml zmq",
    "streamer.cli.run": "av cv2 engines.load numpy onnxruntime openvino tensorrt torch yaml",
    "streamer.client": "av cv2 engines numpy onnxruntime openvino tensorrt torch yaml",
    "streamer.stages.decode": "engines.load lap onnxruntime openvino tensorrt torch yaml",
    "streamer.stages.infer": "av onnx tensorrt torch yaml streamer.sources.container",
    "streamer.stages.track": "av engines.load onnxruntime openvino tensorrt torch yaml",
    "streamer.stages.encode": "engines.load lap onnxruntime openvino tensorrt torch yaml",
    "streamer.stages.publish": "av cv2 engines.load lap onnxruntime openvino torch yaml",
    "streamer.stages.bridge": "av cv2 engines.load lap numpy onnxruntime openvino torch yaml",
    "streamer.stages.rules": "cv2 engines.load lap onnxruntime openvino paho redis torch yaml",
    "engines.load": "av cv2 onnx onnxruntime openvino streamer tensorrt torch",
    "engines.cascade.runtime": "av onnx streamer tensorrt torch",
    "engines.detectors.runtime": "av onnx streamer tensorrt torch",
    "engines.off.observer": "av onnx streamer tensorrt torch",
    "engines.codec.runtime": "av onnx streamer tensorrt torch",
}


@pytest.mark.parametrize("module", LIGHT)
def test_processes_load_only_what_they_need(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, {module}; print(*sys.modules)"],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert not set(LIGHT[module].split()) & set(done.stdout.split())


@pytest.mark.parametrize("name", sources())
def test_each_file_says_what_it_is_and_stays_short(name: str) -> None:
    path = sources()[name]
    docstring = ast.get_docstring(tree(path), clean=False)
    assert docstring, f"{name}: no docstring"
    assert docstring.splitlines()[0].strip(), f"{name}: the first line says nothing"
    assert path.stem not in ("utils", "helpers", "common", "misc")
    lines = len(path.read_text(encoding="utf-8").splitlines())
    allowed = LONGEST_LINES if str(path.relative_to(ROOT)) in LONG_FILES else 400
    assert lines <= allowed, f"{name}: {lines} lines; split it, or say in LONG_FILES why not"


def test_the_list_of_long_files_is_no_longer_than_it_must_be() -> None:
    for file in LONG_FILES:
        assert len((ROOT / file).read_text(encoding="utf-8").splitlines()) > 400, file


@pytest.mark.parametrize(
    "name", [name for name, path in sources().items() if path.stem == "__init__"]
)
def test_packages_show_ten_names_at_most(name: str) -> None:
    names = [
        element.value
        for node in tree(sources()[name]).body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and "__all__" in ast.unparse(node).partition("=")[0]
        and isinstance(node.value, ast.List)
        for element in node.value.elts
        if isinstance(element, ast.Constant)
    ]
    only_words = len(tree(sources()[name]).body) == 1
    assert only_words or "__all__" in sources()[name].read_text(encoding="utf-8")
    assert len(names) <= 10, f"{name}: {len(names)} names"
