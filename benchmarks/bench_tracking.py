"""Score the tracker on labelled sequences beside public trackers: HOTA, MOTA, IDF1, ms an update.

Regime: online, one core, detections from files, every tracker with one setting for all of them.
"ours" is what the video shows (Tracks.shown); "ours_counted" leaves out what is not confirmed.
Metric: TrackEval, percent, combined over the sequences of a set. Ceiling: what the detections hold;
a box that no detector found is a miss for everybody. The sets "shake" and "pan" are rendered.
Command: python benchmarks/bench_tracking.py --data DIR --peers all
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tracking import peers  # noqa: E402
from tracking.moving import moving  # noqa: E402
from tracking.scoring import Judge, combine  # noqa: E402
from tracking.sequences import F64, Sequence, find  # noqa: E402

from streamer.tracking import Detections, Tracker, Tracks, make_tracker  # noqa: E402

Scores = dict[str, dict[str, dict[str, float]]]


def follow(
    tracker: Tracker, sequence: Sequence, motions: list[F64 | None] | None = None
) -> tuple[F64, F64, float]:
    """Shown and confirmed tracks (rows frame, id, corners, class), and mean ms an update."""
    shown, counted, spent_s = [], [], []
    for frame, rows in enumerate(sequence.by_frame()):
        detections = Detections(
            rows[:, :4].astype(np.float32),
            rows[:, 4].astype(np.float32),
            rows[:, 5].astype(np.int64),
            motions[frame] if motions else None,
        )
        start = time.thread_time()
        tracks = tracker.update(detections, frame / sequence.fps)
        spent_s.append(time.thread_time() - start)
        shown.append(_rows(frame, tracks, tracks.shown))
        counted.append(_rows(frame, tracks, tracks.confirmed))
    return np.concatenate(shown), np.concatenate(counted), 1e3 * float(np.mean(spent_s))


def _rows(frame: int, tracks: Tracks, kept: np.ndarray) -> F64:
    frames = np.full(np.count_nonzero(kept), frame)
    columns = (frames, tracks.ids[kept], tracks.boxes_xyxy[kept], tracks.classes[kept])
    return np.column_stack(columns)


def bench(data: Path, names: list[str], tracker: str) -> Scores:
    """Scores of each set by each tracker."""
    sequences = find(data)
    if not sequences:
        sys.exit(f"{data}: no folder with gt.txt and det_*.txt or ref_*.txt, and no kitti.tar.gz")
    judges = [Judge(sequence) for sequence in sequences]
    ours = [follow(make_tracker(tracker), sequence) for sequence in sequences]
    runs = {
        "ours": [(shown, ms) for shown, _, ms in ours],
        "ours_counted": [(counted, ms) for _, counted, ms in ours],
    }
    runs |= {name: peers.follow(name, sequences) for name in names}
    sets: Scores = {}
    for kind in dict.fromkeys(sequence.set for sequence in sequences):
        mine = [index for index, sequence in enumerate(sequences) if sequence.set == kind]
        for name, run in runs.items():
            scores = combine([judges[index].score(run[index][0]) for index in mine])
            scores["ms"] = float(np.mean([run[index][1] for index in mine]))
            sets.setdefault(kind, {})[name] = scores
    return sets


def bench_moving(tracker: str) -> Scores:
    """The same with a moving camera, with and without its motion."""
    sets: Scores = {}
    for camera in ("shake", "pan"):
        sequence, motions = moving(camera)
        judge = Judge(sequence)
        for name, given in (("ours", motions), ("ours_no_motion", None)):
            shown, _, ms = follow(make_tracker(tracker), sequence, given)
            sets.setdefault(camera, {})[name] = combine([judge.score(shown)]) | {"ms": ms}
    return sets


def main() -> None:
    """Print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with labelled sequences")
    parser.add_argument("--peers", choices=("none", "all"), default="none")
    parser.add_argument("--tracker", default="default", help="ours, by name")
    arguments = parser.parse_args()
    names = list(peers.PACKAGES) if arguments.peers == "all" else []
    sets = bench(arguments.data, names, arguments.tracker) | bench_moving(arguments.tracker)
    print(f"{'set':10} {'tracker':15} {'HOTA':>6} {'MOTA':>6} {'IDF1':>6} {'IDSW':>5} {'ms':>6}")
    for kind, trackers in sets.items():
        for name, s in trackers.items():
            scores = f"{s['HOTA']:6.2f} {s['MOTA']:6.2f} {s['IDF1']:6.2f} {s['IDSW']:5.0f}"
            print(f"{kind:10} {name:15} {scores} {s['ms']:6.3f}")
    rounded = {
        kind: {name: {k: round(v, 3) for k, v in s.items()} for name, s in trackers.items()}
        for kind, trackers in sets.items()
    }
    print(json.dumps({"sets": rounded, "tracker": arguments.tracker, **_machine()}))


def _machine() -> dict[str, str]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    )
    return {
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        "commit": commit.stdout.strip(),
    }


if __name__ == "__main__":
    main()
