"""Measure the segmenter: accuracy and time by rho, carry-over in video, blocks against pixels.

Regime: one frame at a time, from planes to labels, one process. Times are processor time of the
whole process ("cpu"), which other programs disturb little, and wall time beside it. Metric: mean
intersection over union of 11 classes. Ceiling: the same engines run densely. All rules take turns
on each picture, so that all see the same machine. The shipped weights were trained on validation
pictures too: pictures are therefore labelled by those of the same recipe that were not, and clips
alone by the shipped ones.
Command: python -m benchmarks.bench_cascade frames|carry|blocks --json-out FILE
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.cascade import forms
from benchmarks.report import Gate, Value, finish, parser, table
from engines.base import Engine
from engines.cascade.carry import CarryOptions
from engines.cascade.evaluate import Picture, Row, by_rule, densely, load_dense, measure
from engines.cascade.pack import labelled_pictures, planes_of
from engines.cascade.runtime import LabelMap, Memory, Segmenter, find_cascade
from engines.cascade.stages import Rule
from streamer.planes import Planes
from streamer.sources.container import SourceOptions
from streamer.sources.uri import open_source

U8 = NDArray[np.uint8]
Triple = tuple[U8, U8, U8]

CLIPS = {
    "street": "synthetic:street?seed=1&size=1280x720&fps=25",
    "highway": "{data}/video/highway_320x240.avi",
    "two persons": "{data}/video/two_persons_1080p.mp4",
    "crowd from above": "{data}/video/walking_crowd_720p.mp4",
}
"""Of fixed cameras. The network knows places like the first alone."""
JUDGED = "street"
CLIP_FPS = 25
TRAIN_ALONE = Path(__file__).parent / "cascade" / "train_alone"
"""Weights that have seen no validation picture."""
AS_GOOD = 0.002
"""So much less mIoU counts as equal."""
RHOS = (1.0, 0.995, 0.985, 0.97, 0.95, 0.93, 0.9, 0.8, 0.7, 0.6, 0.5)
"""The published table's and some below; 1 is dense."""
SHARES = (0.0, 0.125, 0.25, 0.5)


def frames(
    segmenter: Segmenter, dense_engines: Sequence[Engine], data: Path, limit: int
) -> tuple[dict[str, Value], list[Gate]]:
    """The cascade by rho and by share, dense, and the shorter dense networks inside it."""
    pictures = camvid(data, limit)
    tuned, classes = segmenter.stages.rule, len(segmenter.classes)
    rules = [Rule(rho, tuned.share) for rho in RHOS if rho < 1]
    rules += [Rule(tuned.rho, share) for share in SHARES if share != tuned.share]
    dense_ways = [densely(segmenter, engine) for engine in dense_engines]
    ways = [by_rule(segmenter, tuned), dense_ways[0]]
    ways += [by_rule(segmenter, rule) for rule in rules]
    rows = measure([*ways, *dense_ways[1:]], pictures, classes)
    rows, shorter = rows[: len(ways)], rows[len(ways) :]
    ours, dense = rows[0], rows[1]
    names = ["tuned", "dense", *("by rho" for _ in RHOS[1:])]
    names += ["by share"] * (len(rows) - len(names)) + ["stages 1 and 2, dense", "stage 1 alone"]
    show(names, [*rows, *shorter])
    results: dict[str, Value] = {
        "pictures": len(pictures),
        "tuned": plain(ours),
        "dense": plain(dense),
        "per_class": [round(float(score), 4) for score in ours.scores.per_class()],
        "by_rho": [plain(row) for row in rows[1 : len(RHOS) + 1]],
        "by_share": [plain(row) for row in rows[len(RHOS) + 1 :]],
        "shorter_dense": [plain(row) for row in shorter],
    }
    miou = ours.scores.miou()
    loss = dense.scores.miou() - miou
    singles = (dense, *shorter)
    as_fast = [row.scores.miou() for row in singles if row.ms_cpu <= ours.ms_cpu]
    as_good = [row.ms_cpu for row in singles if row.scores.miou() >= miou - AS_GOOD]
    gates = [
        Gate("mIoU on validation", round(miou, 4), 0.58, 0.67, True),
        Gate(
            "mIoU above the dense networks as fast",
            round(miou - max(as_fast, default=0.0), 4),
            0.001,
            0.01,
            True,
        ),
        Gate(
            "faster than the dense networks as good, times",
            round(min(as_good) / ours.ms_cpu, 2) if as_good else None,
            1.0,
            1.2,
            True,
        ),
        Gate("faster than dense, times", round(dense.ms_cpu / ours.ms_cpu, 2), 1.4, 1.8, True),
        Gate("loss of mIoU against dense", round(loss, 4), 0.005, 0.0),
        Gate("ms a frame, two threads, median", round(ours.ms, 1), 25, 12),
        Gate("ms of processor time a frame", round(ours.ms_cpu, 1), 50, 24),
    ]
    return results, gates


def carry(
    segmenter: Segmenter, dense_engines: Sequence[Engine], data: Path, limit: int
) -> tuple[dict[str, Value], list[Gate]]:
    """Label clips of fixed cameras densely, by the cascade, and with labels carried over."""
    results: dict[str, Value] = {}
    gates: list[Gate] = []
    for name, uri in CLIPS.items():
        place = uri.format(data=data)
        measured = follow(segmenter, densely(segmenter, dense_engines[0]).label, clip(place, limit))
        results[name] = measured.plain()
        if name == JUDGED:
            gates = [
                Gate(f"{name}: faster with carry-over", measured.speedup, 4, 8, True),
                Gate(f"{name}: labels equal to dense", measured.equal["carried"], 0.97, 0.99, True),
            ]
    rows: list[list[Value]] = []
    for name, result in results.items():
        assert isinstance(result, dict)
        rows.append([name, *(result[key] for key in ("speedup", "equal", "dense_twice", "cpu_ms"))])
    table(["clip", "times faster", "equal to dense", "dense, a frame later", "mean cpu ms"], rows)
    return results, gates


@dataclass(frozen=True, slots=True)
class Followed:
    """What one clip gave: mean processor time, labels equal to dense ones, blocks carried."""

    cpu_ms: dict[str, float]
    equal: dict[str, float]
    dense_twice: float
    """How equal dense labels are to those of the frame before."""
    carried: float
    frames: int

    @property
    def speedup(self) -> float:
        """Of carrying over against dense."""
        return round(self.cpu_ms["dense"] / self.cpu_ms["carried"], 2)

    def plain(self) -> dict[str, Value]:
        """As JSON."""
        return {
            "frames": self.frames,
            "speedup": self.speedup,
            "cpu_ms": self.cpu_ms,
            "equal": self.equal,
            "dense_twice": self.dense_twice,
            "blocks_carried": self.carried,
        }


def follow(
    segmenter: Segmenter, dense: Callable[[Triple], LabelMap], frames: Iterator[Triple]
) -> Followed:
    """Label each frame in three ways, one after the other."""
    memory = Memory(CarryOptions(), segmenter.stages.signature)
    spent: dict[str, list[float]] = {"dense": [], "cascade": [], "carried": []}
    equal: dict[str, list[float]] = {"cascade": [], "carried": []}
    carried: list[float] = []
    twice: list[float] = []
    before: U8 | None = None
    for index, planes in enumerate(frames):
        found: dict[str, LabelMap] = {}
        at_ns = index * 1_000_000_000 // CLIP_FPS
        for name, times in spent.items():
            start = time.process_time()
            if name == "dense":
                found[name] = dense(planes)
            elif name == "cascade":
                found[name] = segmenter.segment(planes)
            else:
                found[name] = segmenter.segment(planes, media_time_ns=at_ns, memory=memory)
            times.append(1e3 * (time.process_time() - start))
        truth = found["dense"].labels
        for name, shares in equal.items():
            shares.append(float((found[name].labels == truth).mean()))
        carried.append(found["carried"].carried)
        if before is not None:
            twice.append(float((before == truth).mean()))
        before = truth
    return Followed(
        {name: round(statistics.fmean(times), 2) for name, times in spent.items()},
        {name: round(statistics.fmean(shares), 4) for name, shares in equal.items()},
        round(statistics.fmean(twice), 4),
        round(statistics.fmean(carried), 4),
        len(carried),
    )


def blocks(
    segmenter: Segmenter, dense_engines: Sequence[Engine], data: Path, limit: int
) -> tuple[dict[str, Value], list[Gate]]:
    """Stage 2 and 3 on what stage 1 left undecided: blocks of several sides, pixels, everything."""
    inputs = [forms.input_of(segmenter, picture.planes) for picture in camvid(data, limit)]
    ways = forms.measure(segmenter, dense_engines[0], inputs)
    rows: list[list[Value]] = [
        [way.name, round(way.positions_share, 3), way.ms_cpu, round(way.equal, 4)] for way in ways
    ]
    table(["way", "positions run", "cpu ms of stages 2 and 3", "labels equal to dense"], rows)
    by_length = forms.break_even(segmenter)
    shares: list[list[Value]] = [[round(share, 3), round(ratio, 3)] for share, ratio in by_length]
    table(["share of blocks", "time against the whole map"], shares)
    results: dict[str, Value] = {
        "ways": [
            {
                "name": way.name,
                "positions": round(way.positions_share, 4),
                "ms_cpu": way.ms_cpu,
                "equal": round(way.equal, 4),
            }
            for way in ways
        ],
        "break_even": [{"share": share, "of_whole": ratio} for share, ratio in by_length],
    }
    whole = next(way.ms_cpu for way in ways if way.name == "dense graph")
    kept = next(way.ms_cpu for way in ways if way.name == "blocks of 4")
    gates = [Gate("stages 2 and 3 on blocks, times faster", round(whole / kept, 2), 1.4, 2.0, True)]
    return results, gates


def camvid(data: Path, limit: int) -> list[Picture]:
    """Evenly spaced pictures of CamVid's validation part."""
    pictures = [
        Picture(planes_of(bgr), truth)
        for _, bgr, truth in labelled_pictures(data / "camvid", "val")
    ]
    return pictures[:: -(-len(pictures) // limit)]


def clip(uri: str, limit: int) -> Iterator[Triple]:
    """The first frames of a clip."""
    source = open_source(uri, options=SourceOptions(threads=1))
    source.open()
    for index, frame in enumerate(source.frames()):
        if index == limit:
            break
        planes = Planes.empty(frame.width, frame.height)
        frame.write_to(planes)
        yield planes.y, planes.u, planes.v
    source.close()


def show(names: Sequence[str], rows: Sequence[Row]) -> None:
    """Print what each rule reached."""
    lines: list[list[Value]] = []
    for name, row in zip(names, rows, strict=True):
        scores: list[Value] = [round(row.scores.miou(), 4), _border_f(row)]
        times: list[Value] = [round(row.ms, 1), round(row.ms_cpu, 1)]
        decided = "/".join(f"{share:.2f}" for share in row.decided)
        lines.append([name, row.rule.rho, row.rule.share, decided, *scores, *times])
    table(["what", "rho", "share", "decided", "mIoU", "border F", "ms", "cpu ms"], lines)


def plain(row: Row) -> dict[str, Value]:
    """A row as JSON."""
    return {
        "rho": row.rule.rho,
        "share": row.rule.share,
        "decided": [round(share, 4) for share in row.decided],
        "miou": round(row.scores.miou(), 4),
        "border_f": _border_f(row),
        "ms": round(row.ms, 2),
        "ms_cpu": round(row.ms_cpu, 2),
    }


def _border_f(row: Row) -> float | None:
    score = row.scores.border_f()
    return None if np.isnan(score) else round(score, 4)


def main() -> int:
    """Measure one part."""
    options_of = parser(__doc__)
    options_of.add_argument("part", choices=("frames", "carry", "blocks"))
    options_of.add_argument("--model", help="default: as the regime says")
    options_of.add_argument("--threads", type=int, default=2)
    options_of.add_argument("--precision")
    options_of.add_argument("--limit", type=int, default=1000)
    options = options_of.parse_args()
    cv2.setNumThreads(1)
    model = options.model or ("cascade" if options.part == "carry" else str(TRAIN_ALONE))
    segmenter = Segmenter.load(
        model,
        threads=options.threads,
        precision=options.precision,
    )
    measured = {"frames": frames, "carry": carry, "blocks": blocks}[options.part]
    lengths = (3, 2, 1) if options.part == "frames" else (3,)
    dense_engines = [
        load_dense(find_cascade(model), "auto", options.threads, options.precision, stages)
        for stages in lengths
    ]
    results, gates = measured(segmenter, dense_engines, options.data, options.limit)
    for engine in dense_engines:
        engine.close()
    configuration: dict[str, Value] = {
        "model": "cascade" if model == "cascade" else Path(model).name,
        "threads": options.threads,
        "precision": options.precision or "f32",
        "engine": f"{segmenter.stages.engines[0].name} {segmenter.stages.engines[0].version}",
        "limit": options.limit,
    }
    segmenter.close()
    return finish(
        f"cascade {options.part}",
        configuration=configuration,
        results=results,
        gates=gates,
        json_out=options.json_out,
    )


if __name__ == "__main__":
    sys.exit(main())
