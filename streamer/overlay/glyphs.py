"""Turn words into small coloured pictures in YUV, and remember the latest of them."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

import cv2
import numpy as np

from streamer.planes import U8

_FONT = cv2.FONT_HERSHEY_DUPLEX
_FINER = 8  # glyphs are drawn this many times larger and scaled down: that smooths them
_REMEMBERED = 512  # tiles of about 5 kB; the oldest makes room

Tile = tuple[U8, U8, U8]


class Glyphs:
    """The printable ASCII characters at one height, and tiles of words made of them."""

    def __init__(self, height_px: int) -> None:
        """Draw the atlas.

        Args:
            height_px: of a line, even.
        """
        self.height_px = height_px
        self._alpha = {chr(code): _draw(chr(code), height_px) for code in range(32, 127)}
        self._tiles: dict[tuple[str, tuple[int, ...]], Tile] = {}

    def tile(self, text: str, ink: tuple[int, ...], ground: tuple[int, ...]) -> Tile:
        """Give Y, U and V of a line of text: even sides, chroma at half size.

        Args:
            text: characters beyond ASCII lose their accents or become "?".
            ink: Y, U, V of the characters.
            ground: Y, U, V behind them.
        """
        key = (text, ink + ground)
        tile = self._tiles.get(key)
        if tile is None:
            tile = self._join(text, ink, ground)
            if len(self._tiles) >= _REMEMBERED:
                del self._tiles[next(iter(self._tiles))]
            self._tiles[key] = tile
        return tile

    def _join(self, text: str, ink: tuple[int, ...], ground: tuple[int, ...]) -> Tile:
        """Put a line together from its words, which come again more often than lines do."""
        words = text.split(" ")
        if len(words) == 1:
            return self._word(text, ink, ground)
        tiles = [self.tile(word, ink, ground) for word in words]
        y, u, v = (np.concatenate(planes, axis=1) for planes in zip(*tiles, strict=True))
        return y, u, v

    def _word(self, word: str, ink: tuple[int, ...], ground: tuple[int, ...]) -> Tile:
        alpha = self.alpha(word)
        half = cv2.resize(
            alpha, (alpha.shape[1] // 2, alpha.shape[0] // 2), interpolation=cv2.INTER_AREA
        )
        y, u, v = (
            cv2.LUT(mask, _ramp(low, high))
            for mask, low, high in zip((alpha, half, half), ground, ink, strict=True)
        )
        return y, u, v

    def alpha(self, text: str) -> U8:
        """Give the coverage of a text, 0..255, with a margin on both sides; its width is even."""
        glyphs = [self._alpha[character] for character in _ascii(text)]
        width = sum(glyph.shape[1] for glyph in glyphs)
        margin = self.height_px // 6
        alpha = np.zeros((self.height_px, (width + 2 * margin + 1) // 2 * 2), np.uint8)
        if glyphs:
            np.concatenate(glyphs, axis=1, out=alpha[:, margin : margin + width])
        return alpha


def _draw(character: str, height_px: int) -> U8:
    """Draw one character, as coverage 0..255."""
    large = height_px * _FINER
    capital = round(large * 0.58)
    stroke = max(round(capital * 0.08), 1)
    scale = cv2.getFontScaleFromHeight(_FONT, capital, stroke)
    (advance, _), _ = cv2.getTextSize(character, _FONT, scale, stroke)
    width = max(round(advance / _FINER), 1)
    picture = np.zeros((large, width * _FINER), np.uint8)
    start = ((width * _FINER - advance) // 2, round(large * 0.76))
    cv2.putText(picture, character, start, _FONT, scale, 255, stroke, cv2.LINE_AA)
    small: U8 = cv2.resize(picture, (width, height_px), interpolation=cv2.INTER_AREA)
    return small


def _ascii(text: str) -> str:
    """Spell a text in printable ASCII."""
    if text.isascii() and text.isprintable():
        return text
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in plain)


@lru_cache(maxsize=256)
def _ramp(low: int, high: int) -> U8:
    return np.round(np.linspace(low, high, 256)).astype(np.uint8)
