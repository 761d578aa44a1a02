"""The base of all sections of the configuration, and the kinds of value that several of them have.

Knows no section.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

NAME_PATTERN = "^[A-Za-z0-9_-]{1,40}$"
Name = Annotated[str, Meta(pattern=NAME_PATTERN)]
Seconds = Annotated[float, Meta(ge=0)]
Relative = Annotated[float, Meta(ge=0, le=1)]
"""Part of the picture's width or height."""


class Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all sections: unknown keys are errors."""
