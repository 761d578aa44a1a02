"""Fixtures that several test modules share."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

KEEP_TIME = frozenset(
    f"test_{name}"
    for name in (
        "act_segment_run",
        "analytics_stage",
        "benchmarks",
        "bridges",
        "infer_offline",
        "learned",
        "memory",
        "replay",
        "rtsp_sources",
        "rules_run",
        "streams",
        "supervisor",
        "survival",
    )
)
"""Modules that measure or kill live pipelines, which would hold each other up."""

# Before a library reads it: threads wait long for each other where cores are shared, and gain
# nothing in networks as small as those of the tests.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """What -n auto means: one worker a core, four at most; tests of one file run here."""
    if any(".py" in argument for argument in config.args):
        return 0
    return min(4, len(os.sched_getaffinity(0)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With --dist loadgroup one worker runs all that keeps time; others run beside it."""
    for item in items:
        if item.path.stem in KEEP_TIME:
            item.add_marker(pytest.mark.xdist_group("time"))


def missing(reason: str) -> None:
    """Skip on a user's machine; fail where the environment says that nothing may be missing."""
    if os.environ.get("CI"):
        pytest.fail(f"{reason} (a skip is refused where CI is set)")
    pytest.skip(reason)


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has a host of its own, as far as the event log goes."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of real media and weights: $STREAMER_DATA, else ../shared/data."""
    folder = Path(os.environ.get("STREAMER_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        missing(f"no test data at {folder}; set STREAMER_DATA")
    return folder


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs an NVIDIA GPU where there is none; REQUIRE_GPU=1 makes it fail instead."""
    if item.get_closest_marker("gpu") and os.environ.get("REQUIRE_GPU") != "1":
        gpu = any(Path(node).exists() for node in ("/dev/nvidiactl", "/dev/nvhost-gpu"))
        if not (gpu and find_spec("tensorrt")):
            pytest.skip("needs an NVIDIA GPU and TensorRT")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        missing("no right to mount a small disk")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=False)
