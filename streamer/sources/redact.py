"""Turn text that may hold passwords into text that may be logged; runs wherever text leaves.

Also puts ${ENV} into URIs. Knows no network and no library; thread-safe.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from urllib.parse import quote

from streamer.errors import ConfigError

HIDDEN = "***"

_SCHEME = r"(?P<scheme>\b[a-z][a-z0-9+.-]*://)"
# Greedy up to the last @: a raw password may itself hold an @ or a quote.
_USERINFO = re.compile(_SCHEME + r"[^\s/?#]*@", re.IGNORECASE)
# A raw password may even hold a slash; but host:554/path@1 is no password.
_USERINFO_WITH_SLASH = re.compile(
    _SCHEME + r"[^\s/?#:@]*:(?!\d{1,5}[/?#])[^\s/?#@]*[/?#]\S*@", re.IGNORECASE
)
_PARAMETER_NAMES = (
    "password|passwd|passphrase|pass|pwd|psw|user|username|usr|login|token|access_token|auth|"
    "secret|key|api_?key|access_?key|streamid|sig|signature"
)
_PARAMETER = re.compile(rf"(?P<name>\b(?:{_PARAMETER_NAMES})=)[^&\s#\"'<>]+", re.IGNORECASE)
_HEADER = re.compile(r"(?P<name>\bAuthorization:\s*(?:Basic|Digest|Bearer)\s+)\S+", re.IGNORECASE)

_ENVIRONMENT = re.compile(r"\$\{(?P<name>[^}]*)\}")
_USERINFO_TEMPLATE = re.compile(r"^[a-z][a-z0-9+.-]*://[^/?#]*@", re.IGNORECASE)


def redact(text: str) -> str:
    """Hide the user, password and token of every URI in any text.

    When in doubt it hides too much: what stands before the last @ of an address is gone.
    """
    text = _USERINFO.sub(rf"\g<scheme>{HIDDEN}@", text)
    text = _USERINFO_WITH_SLASH.sub(rf"\g<scheme>{HIDDEN}@", text)
    text = _PARAMETER.sub(rf"\g<name>{HIDDEN}", text)
    return _HEADER.sub(rf"\g<name>{HIDDEN}", text)


def resolve_env(uri: str, environment: Mapping[str, str] | None = None) -> str:
    """Replace each ${NAME} by its value; inside user:password@ the value is percent-encoded.

    Raises:
        ConfigError: a name is not set; the text says which, never a value.
    """
    values = os.environ if environment is None else environment
    userinfo = _USERINFO_TEMPLATE.match(uri)
    userinfo_end = userinfo.end() if userinfo else 0

    def value_of(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in values:
            raise ConfigError(
                f"{redact(uri)}: the environment variable {name!r} is not set; "
                f"set it, as in: export {name or 'NAME'}=..."
            )
        return quote(values[name], safe="") if match.end() <= userinfo_end else values[name]

    return _ENVIRONMENT.sub(value_of, uri)
