"""The base of all sections of the configuration, and the kinds of value that several of them have.

Knows no section.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Annotated

import msgspec
from msgspec import Meta

from streamer.errors import ConfigError

NAME_PATTERN = "^[A-Za-z0-9_-]{1,40}$"
Name = Annotated[str, Meta(pattern=NAME_PATTERN)]
Seconds = Annotated[float, Meta(ge=0)]
Relative = Annotated[float, Meta(ge=0, le=1)]
"""Part of the picture's width or height."""


class Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all sections: unknown keys are errors."""


def check_names(
    where: str, names: Collection[str], known: Collection[str], *, among: str = ""
) -> None:
    """Refuse names of what is not there.

    Args:
        where: path of the names, for the error.
        names: as they were given.
        known: all that there are.
        among: what these are, for the error, such as " of camera gate".

    Raises:
        ConfigError: with the nearest name that is known.
    """
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), 1)
            some = f"known are {', '.join(sorted(known)) or 'none'}"
            hint = f"did you mean {near[0]!r}?" if near else some
            raise ConfigError(f"{where}: there is no {name!r}{among}; {hint}")
