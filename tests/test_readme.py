"""What the README says is so: its commands exist, its figures are those of the results."""

from __future__ import annotations

import re

from benchmarks.readme import BEGIN, END, README, table
from streamer.cli.main import COMMANDS
from streamer.configfile import load_config


def test_figures_are_those_of_the_results():
    block = README.read_text().partition(BEGIN)[2].partition(END)[0]
    assert block == table()
    assert block.count("\n|") > 10


def test_every_command_that_is_shown_exists_and_every_command_is_shown():
    shown = set(re.findall(r"\bstreamer (\w+)", README.read_text())) & {*COMMANDS, "rum"}
    assert shown == set(COMMANDS)


def test_the_configurations_that_are_shipped_are_valid():
    folder = README.parent / "configs"
    configs = sorted(folder.glob("*.yaml"))
    assert configs
    for path in configs:
        assert load_config(path).cameras
