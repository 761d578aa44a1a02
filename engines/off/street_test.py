"""Score a track-scope recogniser on rendered streets that no training saw; offline.

    python -m engines.off.street_test --seeds 1:5

Persons are followed by their true boxes, so that the recogniser alone is measured. A window counts
if it lies wholly in one episode; an episode counts if its person is in sight for its first 2 s. The
last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.off.confusion import confusion_svg
from engines.off.metrics import accuracy, confusion, mean_class_accuracy
from engines.off.observer import ActionChange, Observer, Options, Track
from engines.off.pack import shows_action
from engines.off.runtime import OffModel
from streamer.planes import Planes
from streamer.sources.street.actors import Episode
from streamer.sources.street.camera import CAMERAS
from streamer.sources.street.street import Street

_SECOND_NS = 1_000_000_000
_IN_SIGHT_S = 2.0
_FPS = 16


@dataclass(slots=True)
class Outcome:
    """What was said of some streets, and what was true."""

    scores: list[NDArray[np.float64]] = field(default_factory=list)
    truth: list[int] = field(default_factory=list)
    delays_s: list[float] = field(default_factory=list)
    episodes: int = 0
    found: int = 0
    false_starts: int = 0
    """Events of an action that its person didn't do at any time in the window before."""


def watch(model: OffModel, seed: int, seconds: float, outcome: Outcome) -> None:
    """Follow everybody in one street for a while."""
    street = Street(seed, fps=Fraction(_FPS), camera=CAMERAS[seed % len(CAMERAS)])
    observer = Observer(model, Options(crops_per_s=1e6))
    planes = Planes.empty(street.width, street.height)
    picture = (planes.y, planes.u, planes.v)
    begins: dict[tuple[int, Episode], float] = {}
    last: dict[tuple[int, Episode], float] = {}
    changes: list[tuple[float, ActionChange]] = []
    window_s = model.signature.window / model.signature.rate
    for frame in range(3 * _FPS, int((3 + seconds) * _FPS)):
        seen = [s for s in street.truth(frame).sightings if shows_action(s)]
        time_s = street.time_s(frame)
        if frame % 2 == 0 and seen:
            street.render(frame, planes)
            tracks = [Track(s.identity, s.box_xyxy) for s in seen]
            found = observer.observe("street", round(time_s * _SECOND_NS), picture, tracks)
            changes += [(time_s, change) for change in found]
            judged = {s.track_id: s.scores for s in observer.streams("street")}
            for sighting in seen:
                scores, episode = judged[sighting.identity], sighting.episode
                assert episode is not None
                if scores and time_s - episode.begin_s >= window_s:
                    outcome.scores.append(np.array(list(scores.values())))
                    outcome.truth.append(model.signature.classes.index(episode.action))
        for sighting in seen:
            assert sighting.episode is not None
            key = (sighting.identity, sighting.episode)
            begins.setdefault(key, time_s)
            last[key] = time_s
    _count_events(begins, last, changes, window_s, outcome)


def _count_events(
    begins: dict[tuple[int, Episode], float],
    last: dict[tuple[int, Episode], float],
    changes: list[tuple[float, ActionChange]],
    window_s: float,
    outcome: Outcome,
) -> None:
    started = [(t, c) for t, c in changes if c.kind == "started"]
    for key, since_s in begins.items():
        who, episode = key
        whole = since_s - episode.begin_s < 2 / _FPS and last[key] - since_s >= _IN_SIGHT_S
        if not whole:
            continue
        outcome.episodes += 1
        times = [
            t
            for t, c in started
            if c.track_id == who and c.action == episode.action and since_s <= t <= last[key]
        ]
        if times:
            outcome.found += 1
            outcome.delays_s.append(times[0] - episode.begin_s)
    for t, change in started:
        done = {
            e.action
            for (who, e), since in begins.items()
            if who == change.track_id and since <= t <= last[who, e] + window_s
        }
        outcome.false_starts += change.action not in done


def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", default="street_actions")
    parser.add_argument("--seeds", default="1:5", help="first and one behind the last")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--plot", type=Path, help="SVG file for the confusion plot")
    options = parser.parse_args(argv)
    cv2.setNumThreads(1)
    model = OffModel.load(options.model)
    if model.signature.scope != "track":
        raise SystemExit(f"{options.model}: scope must be track, got {model.signature.scope}")
    outcome = Outcome()
    seeds = range(*(int(n) for n in options.seeds.split(":")))
    for seed in seeds:
        watch(model, seed, options.seconds, outcome)
    scores, truth = np.stack(outcome.scores), np.array(outcome.truth)
    counts = confusion(scores, truth, len(model.signature.classes))
    sys.stdout.write(
        f"true (rows) against said ({', '.join(model.signature.classes)}):\n{counts}\n"
    )
    delays = outcome.delays_s or [float("nan")]
    figures = {
        "seeds": options.seeds,
        "windows": len(truth),
        "accuracy": round(accuracy(scores, truth), 4),
        "mean_class_accuracy": round(mean_class_accuracy(scores, truth), 4),
        "episodes": outcome.episodes,
        "found": outcome.found,
        "false_starts": outcome.false_starts,
        "delay_s_median": round(float(np.median(delays)), 3),
        "delay_s_p90": round(float(np.percentile(delays, 90)), 3),
    }
    text = json.dumps(figures)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    if options.plot:
        options.plot.write_text(confusion_svg(counts, model.signature.classes), encoding="utf-8")
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
