"""Which classes may be one object, and which class a track is by majority; arrays only."""

from __future__ import annotations

import numpy as np

from streamer.tracking.detections import F64, I64


class ClassGroups:
    """Maps a class to its group (its own number, or its group's first class) and place therein."""

    def __init__(self, groups: tuple[tuple[int, ...], ...]) -> None:
        self.width = max((len(group) for group in groups), default=1)
        self._groups = {group[0]: group for group in groups if group}
        self._home = {
            member: (group[0], place) for group in groups for place, member in enumerate(group)
        }

    def locate(self, classes: I64) -> tuple[I64, I64]:
        """Group and place in it of each class."""
        group, place = classes.astype(np.int64), np.zeros(len(classes), np.int64)
        for member, (home, index) in self._home.items():
            mine = classes == member
            group[mine] = home
            place[mine] = index
        return group, place

    def winners(self, groups: I64, votes: F64) -> I64:
        """The class with the most votes in each row; votes is (N, width)."""
        classes: I64 = groups.copy()
        best = votes.argmax(axis=1)
        for home, members in self._groups.items():
            mine = groups == home
            classes[mine] = np.asarray(members, np.int64)[best[mine]]
        return classes
