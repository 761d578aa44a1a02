"""Write the table of measured figures into README.md, from benchmarks/results/*.json alone.

Command: python -m benchmarks.readme
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results")
README = Path(__file__).resolve().parent.parent / "README.md"
Gate = dict[str, Any]
BEGIN, END = "<!-- measured: python -m benchmarks.readme -->\n", "<!-- end of measured -->\n"


def table(folder: Path = RESULTS) -> str:
    """One row for each promise of each benchmark, and below them the machine they ran on."""
    rows = ["| benchmark | what | measured | must | aim |", "|---|---|---|---|---|"]
    machines: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*.json")):
        document = json.loads(path.read_text())
        for gate in _worst_of_processes(document.get("gates", [])):
            measured = "not measured" if gate["value"] is None else f"{gate['value']:g}"
            missed = "" if gate["passed"] else " (missed)"
            rows.append(
                f"| {document['benchmark']} | {gate['name']} | {measured}{missed} "
                f"| {_bound(gate, 'must')} | {_bound(gate, 'aim')} |"
            )
        if "gates" in document:
            _note(machines, document["machine"], document["benchmark"])
        if earlier := document.get("configuration", {}).get("speeds_from"):
            _note(machines, earlier["machine"], f"speeds of {document['benchmark']}")
    where = "; ".join(
        f"{', '.join(sorted(set(names)))} on {machine}" if len(machines) > 1 else f"on {machine}"
        for machine, names in sorted(machines.items())
    )
    return "\n".join([*rows, "", f"Measured {where}.", ""])


def _note(machines: dict[str, list[str]], machine: dict[str, Any], what: str) -> None:
    machines.setdefault(f"{machine['cores']} cores of {machine['cpu']}", []).append(what)


def _bound(gate: Gate, which: str) -> str:
    if gate[which] is None:
        return "-"
    return f"{'≥' if gate['at_least'] else '≤'} {gate[which]:g}"


def _worst_of_processes(gates: list[Gate]) -> list[Gate]:
    """One row in place of one for each process: the worst of those that measure the same."""
    shown: dict[str, Gate] = {}
    for gate in gates:
        _, _, what = gate["name"].partition(" ")
        per_process = what in ("MB/h", "descriptors")
        name = f"{what}, worst process" if per_process else gate["name"]
        if name not in shown or _badness(gate) > _badness(shown[name]):
            shown[name] = {**gate, "name": name}
    return list(shown.values())


def _badness(gate: Gate) -> float:
    return float("inf") if gate["value"] is None else float(gate["value"])


def main() -> None:
    """Replace the block between the marks."""
    before, _, rest = README.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text(f"{before}{BEGIN}{table()}{END}{after}")


if __name__ == "__main__":
    main()
