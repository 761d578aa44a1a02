"""Run one public tracker over detections; runs in the environment of that tracker's package.

Usage: peer_worker.py {sort,bytetrack,norfair} IN.npz OUT.npz. IN holds frames_<i> (K, 7) rows of
frame, corners, score, class, length_<i> and fps_<i>; OUT holds tracks_<i> (rows frame, id, corners,
class) and ms_<i> per frame. These trackers know no classes, so each class gets one of its own.
"""

from __future__ import annotations

import sys
import time
import warnings

import numpy as np

warnings.simplefilter("ignore")


def roboflow(name, fps):
    """SORT or ByteTrack of the package "trackers" with its own defaults."""
    import supervision as sv
    import trackers

    tracker = {"sort": trackers.SORTTracker, "bytetrack": trackers.ByteTrackTracker}[name](
        frame_rate=fps
    )

    def update(rows):
        found = tracker.update(
            sv.Detections(
                xyxy=rows[:, :4].astype(np.float32),
                confidence=rows[:, 4].astype(np.float32),
                class_id=rows[:, 5].astype(int),
            )
        )
        known = found.tracker_id >= 0
        return found.tracker_id[known], found.xyxy[known]

    return update


def norfair():
    """Norfair, IoU distance up to 0.7, detections from 0.5 up; it has a default for neither."""
    from norfair import Detection, Tracker

    tracker = Tracker(distance_function="iou", distance_threshold=0.7)

    def update(rows):
        rows = rows[rows[:, 4] >= 0.5]
        found = tracker.update([Detection(row[:4].reshape(2, 2)) for row in rows])
        boxes = [track.estimate.reshape(4) for track in found]
        return np.array([track.id for track in found]), np.array(boxes).reshape(-1, 4)

    return update


def follow(name, rows, length, fps):
    """Tracks of one sequence and the time it took."""
    out, spent_s = [np.empty((0, 7))], 0.0
    for number in np.unique(rows[:, 6]):
        update = norfair() if name == "norfair" else roboflow(name, fps)
        mine = rows[rows[:, 6] == number]
        edges = np.searchsorted(mine[:, 0], np.arange(length + 1))
        for frame in range(length):
            now = mine[edges[frame] : edges[frame + 1], 1:]
            start = time.process_time()
            ids, boxes = update(now)
            spent_s += time.process_time() - start
            if len(ids):
                frames, classes = np.full(len(ids), frame), np.full(len(ids), number)
                ids = ids * 10 + number  # of this class's own tracker
                out.append(np.column_stack([frames, ids, boxes, classes]))
    rows = np.concatenate(out)
    return rows[np.argsort(rows[:, 0], kind="stable")], spent_s / length * 1e3


def main():
    """Follow every sequence of the input file."""
    name, source, target = sys.argv[1:]
    given, answer = np.load(source), {}
    for index in range(sum(key.startswith("frames_") for key in given)):
        arguments = (int(given[f"length_{index}"]), float(given[f"fps_{index}"]))
        tracks, ms = follow(name, given[f"frames_{index}"], *arguments)
        answer[f"tracks_{index}"], answer[f"ms_{index}"] = tracks, ms
    np.savez(target, **answer)


if __name__ == "__main__":
    main()
