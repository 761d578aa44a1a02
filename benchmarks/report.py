"""Turn measured samples into a table for people and one JSON line for machines.

Every benchmark ends with `finish`: a table of its gates, and as the last line one JSON document
with machine, commit and configuration. Measures nothing itself.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = ("av", "numpy", "onnxruntime", "opencv-python", "openvino", "pyzmq", "supervision")

Value = str | int | float | bool | None | Sequence["Value"] | Mapping[str, "Value"]


@dataclass(frozen=True)
class Gate:
    """One promise: a figure, the bound that it must keep and the one that is aimed at.

    A figure without bounds promises nothing, and stands beside those that do.
    """

    name: str
    value: float | None
    """None if it could not be measured, which fails where there is a bound."""
    must: float | None = None
    aim: float | None = None
    at_least: bool = False
    """The bounds are lower ones."""

    @property
    def passed(self) -> bool:
        """True if the figure keeps its promise."""
        return self._keeps(self.must)

    @property
    def verdict(self) -> str:
        """In one word, for the table."""
        if self.must is None:
            return "-"
        return "aim" if self._keeps(self.aim) else "must" if self.passed else "MISSED"

    def _keeps(self, bound: float | None) -> bool:
        if bound is None:
            return True
        if self.value is None:
            return False
        return self.value >= bound if self.at_least else self.value <= bound


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Options that all benchmarks share; the module's docstring is the help."""
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "--data",
        type=Path,
        default=Path(os.environ.get("STREAMER_DATA", ROOT.parent / "shared" / "data")),
        help="folder of test media and weights (default: $STREAMER_DATA or ../shared/data)",
    )
    made.add_argument("--json-out", type=Path, help="also write the JSON document to this file")
    return made


def percentiles(samples: Sequence[float]) -> dict[str, float | None]:
    """The median and the tail, by rank; None where nothing was measured."""
    ranked = sorted(samples)
    return {
        f"p{percent}": round(ranked[min(len(ranked) - 1, len(ranked) * percent // 100)], 3)
        if ranked
        else None
        for percent in (50, 95, 99)
    }


def median(samples: Sequence[float], digits: int = 2) -> float | None:
    """The middle of the samples, rounded, or None if there is none."""
    return round(statistics.median(samples), digits) if samples else None


def table(headers: Sequence[str], rows: Sequence[Sequence[Value]]) -> None:
    """Print aligned columns."""
    cells = [list(headers), *[["-" if cell is None else str(cell) for cell in row] for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headers))]
    for row in cells:
        first, *others = [
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join([first, *others]), flush=True)
    print(flush=True)


def finish(
    name: str,
    *,
    configuration: Mapping[str, Value],
    results: Mapping[str, Value],
    gates: Sequence[Gate],
    json_out: Path | None,
    enforce: bool = False,
) -> int:
    """Print the gates and the JSON document; the exit code is 1 if an enforced gate is missed."""
    table(
        ["gate", "measured", "must", "aim", "verdict"],
        [[gate.name, gate.value, gate.must, gate.aim, gate.verdict] for gate in gates],
    )
    document = {
        "benchmark": name,
        "machine": machine(),
        "commit": commit(),
        "configuration": dict(configuration),
        "results": dict(results),
        "gates": [
            {
                "name": gate.name,
                "value": gate.value,
                "must": gate.must,
                "aim": gate.aim,
                "at_least": gate.at_least,
                "passed": gate.passed,
            }
            for gate in gates
        ],
        "passed": all(gate.passed for gate in gates),
    }
    if json_out is not None:
        json_out.parent.mkdir(parents=True, exist_ok=True)
        json_out.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document), flush=True)
    return 0 if document["passed"] or not enforce else 1


def machine() -> dict[str, Value]:
    """What the figures were measured on."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    memory_kb = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory_kb / 1e6, 1),
        "load_1min": round(os.getloadavg()[0], 2),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in _PACKAGES},
    }


def commit() -> str:
    """The commit that was measured, with "+" if tracked files were changed since."""
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
