"""The cache of compiled networks: found, built once, never trusted when it doesn't fit."""

from __future__ import annotations

import dataclasses
import json
import logging
import multiprocessing
import os
from pathlib import Path

import pytest

from engines.cache import EngineCache, EngineKey
from engines.errors import EngineFailed, EngineUnavailable

KEY = EngineKey(
    graph="0123",
    precision="fp16",
    shapes="x ?x3x4x5 float32; batch 1-1,2-8",
    options="workspace all",
    library="tensorrt 8.6.0",
    gpu="NVIDIA H200 9.0 132 SM",
    driver="550.54.15 CUDA 12.4",
)
CONTENT = bytes(range(256)) * 40


class Builder:
    """Counts how often it is asked."""

    def __init__(self, content: bytes = CONTENT) -> None:
        self.content = content
        self.built = 0

    def __call__(self) -> bytes:
        self.built += 1
        return self.content


def refuse() -> bytes:
    raise AssertionError("must be found, not built")


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "cache")


@pytest.fixture
def stored(cache: EngineCache) -> Path:
    return cache.get_or_build("gate", KEY, Builder()).path


def test_what_is_built_once_is_found_later(cache: EngineCache) -> None:
    builder = Builder()
    first = cache.get_or_build("gate", KEY, builder)
    again = cache.get_or_build("gate", KEY, refuse)
    assert (first.built, again.built, builder.built) == (True, False, 1)
    assert first.content == again.content == CONTENT
    assert [path.name for path in cache.folder.iterdir()] == [first.path.name]
    assert first.path.name == f"gate-{KEY.digest()}.engine"


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(EngineKey)])
def test_another_key_in_any_part_is_another_engine(cache: EngineCache, field: str) -> None:
    cache.get_or_build("gate", KEY, Builder())
    other = dataclasses.replace(KEY, **{field: "something else"})
    assert cache.find("gate", other) is None
    assert cache.get_or_build("gate", other, Builder(b"other")).content == b"other"
    assert cache.find("gate", KEY) == CONTENT, "the first one stays"


def test_a_foreign_engine_under_our_name_is_not_trusted(
    cache: EngineCache, stored: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = dataclasses.replace(KEY, gpu="Orin 8.7 16 SM", driver="540.2")
    stored.rename(cache.path("gate", other))  # as if copied from another machine
    with caplog.at_level(logging.WARNING):
        assert cache.find("gate", other) is None
    assert "made for another driver, gpu; it is built again" in caplog.text


def test_damage_anywhere_is_noticed_and_repaired(cache: EngineCache, stored: Path) -> None:
    whole = stored.read_bytes()
    for place in range(0, len(whole), 97):
        damaged = bytearray(whole)
        damaged[place] ^= 0x20
        stored.write_bytes(damaged)
        builder = Builder()
        entry = cache.get_or_build("gate", KEY, builder)
        assert (entry.content, builder.built) == (CONTENT, 1), f"byte {place}"
        assert stored.read_bytes() == whole


@pytest.mark.parametrize("size", [0, 5, 18, 60, 400, 2000])
def test_a_cut_entry_is_built_again(cache: EngineCache, stored: Path, size: int) -> None:
    stored.write_bytes(stored.read_bytes()[:size])
    assert cache.find("gate", KEY) is None
    assert cache.get_or_build("gate", KEY, Builder()).built


@pytest.mark.parametrize("header", [b"[]", b"{}", b'{"key": 7}', b"\xff\xfe", b"null"])
def test_a_header_of_nonsense_is_no_crash(cache: EngineCache, stored: Path, header: bytes) -> None:
    stored.write_bytes(b"streamer engine 1\n" + header + b"\n" + CONTENT)
    assert cache.find("gate", KEY) is None


def test_a_header_that_vouches_for_other_content(cache: EngineCache, stored: Path) -> None:
    magic, header, _ = stored.read_bytes().split(b"\n", 2)
    assert json.loads(header)["bytes"] == len(CONTENT)
    stored.write_bytes(b"\n".join([magic, header, CONTENT[::-1]]))
    assert cache.find("gate", KEY) is None


def test_a_file_that_others_may_write_is_not_loaded(
    cache: EngineCache, stored: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stored.chmod(0o666)
    with caplog.at_level(logging.WARNING):
        assert cache.find("gate", KEY) is None
    assert "others may write it" in caplog.text
    assert cache.get_or_build("gate", KEY, Builder()).built
    assert stored.stat().st_mode & 0o777 == 0o600
    assert cache.find("gate", KEY) == CONTENT


def test_a_file_of_another_user_is_not_loaded(
    cache: EngineCache, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = stored.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert cache.find("gate", KEY) is None


def test_a_build_that_breaks_leaves_nothing(cache: EngineCache) -> None:
    def breaks() -> bytes:
        raise EngineFailed("out of memory")

    with pytest.raises(EngineFailed, match="out of memory"):
        cache.get_or_build("gate", KEY, breaks)
    assert list(cache.folder.iterdir()) == []
    assert cache.get_or_build("gate", KEY, Builder()).built


def test_a_folder_that_cannot_be_made_and_one_that_can(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.touch()
    with pytest.raises(EngineUnavailable, match=r"folder that can be written, .* XDG_CACHE_HOME"):
        EngineCache(blocker / "cache").get_or_build("gate", KEY, Builder())
    assert EngineCache(tmp_path / "other").get_or_build("gate", KEY, Builder()).built


def test_a_full_disk_leaves_no_part(
    cache: EngineCache, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    other = dataclasses.replace(KEY, precision="fp32")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", full)
        with pytest.raises(EngineUnavailable, match="No space left on device; free some space"):
            cache.get_or_build("gate", other, Builder())
    assert list(cache.folder.iterdir()) == [stored]


def test_the_folder_is_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    entry = EngineCache().get_or_build("gate", KEY, Builder())
    assert entry.path.parent == tmp_path / "streamer" / "tensorrt"
    assert entry.path.parent.stat().st_mode & 0o777 == 0o700


def test_timings_serve_every_network_of_one_machine(cache: EngineCache) -> None:
    assert cache.find_timings(KEY) == b""
    cache.store_timings(KEY, b"measured")
    other_network = dataclasses.replace(KEY, graph="4567", precision="fp32", shapes="y")
    assert cache.find_timings(other_network) == b"measured"
    for field in ("library", "gpu", "driver"):
        assert cache.find_timings(dataclasses.replace(KEY, **{field: "other"})) == b""
    (file,) = cache.folder.iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    assert cache.find_timings(KEY) == b""


def _build_and_count(folder: Path, counts: Path, ready: object) -> None:
    def build() -> bytes:
        with counts.open("ab") as file:
            file.write(b"x")
        return CONTENT

    ready.wait()  # type: ignore[attr-defined]
    EngineCache(folder).get_or_build("gate", KEY, build)


def test_processes_that_want_one_engine_build_it_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(3)
    counts = tmp_path / "counts"
    arguments = (tmp_path / "cache", counts, barrier)
    processes = [context.Process(target=_build_and_count, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert counts.read_bytes() == b"x"
