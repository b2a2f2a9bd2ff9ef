"""Prompts that two data sets share, exactly or nearly: what is held out should not have been trained on.

Nearly means a Jaccard similarity of the sets of five-character pieces of the normalised prompts of at least 0.8. It
is estimated from minima of hashes, and only for prompts that share a band of them, so that no prompt is compared
with all others; the memory is that of one of the two sides.

Source: Broder 1997, "On the resemblance and containment of documents".
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distal.data.keys import plain_text, prompt_key, prompt_text
from distal.data.schemas import Preference

__all__ = ["NEAR", "Overlap", "PromptIndex", "similarity"]

NEAR = 0.8
"""Least similarity of prompts that count as nearly the same."""

_PIECE = 5
_HASHES = 128
_BANDS = 32
_BLOCK = 4096
_KEPT_EXAMPLES = 5
_SHOWN = 200
_PRIME = np.uint64(0x9E3779B97F4A7C15)
_FACTORS = np.random.default_rng(5).integers(1, 2**63, size=(_HASHES, 1), dtype=np.uint64) * np.uint64(
    2
) + np.uint64(1)


def _pieces(text: str) -> NDArray[np.uint64]:
    """A number for each piece of a text, in its order, (k,), k >= 1."""
    raw = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
    windows = (
        np.lib.stride_tricks.sliding_window_view(raw, min(_PIECE, max(1, len(raw))))
        if len(raw)
        else raw[None]
    )
    hashes = np.zeros(len(windows), dtype=np.uint64)
    for column in range(windows.shape[1]):
        hashes = (hashes ^ windows[:, column]) * _PRIME
        hashes ^= hashes >> np.uint64(29)
    return hashes


def similarity(one: str, other: str) -> float:
    """Jaccard similarity of the five-character pieces of two normalised texts, exactly, in [0, 1].

    Examples:
        >>> similarity("How do I boil an egg?", "how do i  BOIL an egg?"), similarity("egg", "tea")
        (1.0, 0.0)
    """
    a, b = (np.unique(_pieces(plain_text(text))) for text in (one, other))
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / (len(a) + len(b) - shared)


def _signature(text: str) -> NDArray[np.uint32]:
    """Minima of hashes, (128,): the share of equal ones estimates the similarity (standard deviation at most 0.045)."""
    # Multiplying by odd numbers and taking the upper bits is a universal family of hash functions. The least product
    # has the least upper bits, so that only minima need be shifted.
    pieces, least = _pieces(text), np.full(_HASHES, np.iinfo(np.uint64).max, dtype=np.uint64)
    for start in range(0, len(pieces), _BLOCK):  # all products at once would be a kilobyte for each character
        np.minimum(least, (pieces[None, start : start + _BLOCK] * _FACTORS).min(axis=1), out=least)
    return (least >> np.uint64(32)).astype(np.uint32)


@dataclass(frozen=True, slots=True)
class Overlap:
    """What a data set shares with another one that is held out.

    Attributes:
        other: name of the held-out data.
        n_prompts: different prompts held out.
        n_exact: those that occur in the data set too, but for case and white space.
        n_near: the further ones with a nearly equal prompt in the data set.
        exact_rows: the first held-out source rows whose prompts occur exactly.
        near_examples: a few (held-out row, row of the data set, estimated similarity, held-out prompt, prompt).
    """

    other: str
    n_prompts: int
    n_exact: int
    n_near: int
    exact_rows: tuple[int, ...] = ()
    near_examples: tuple[tuple[int, int, float, str, str], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The overlap as plain dictionaries, lists, strings and numbers, fit for JSON."""
        names = ("held_out_row", "row", "similarity", "held_out_prompt", "prompt")
        return {
            "other": self.other,
            "held_out_prompts": self.n_prompts,
            "exact": self.n_exact,
            "near": self.n_near,
            "exact_rows": list(self.exact_rows),
            "near_examples": [dict(zip(names, example, strict=True)) for example in self.near_examples],
        }


class PromptIndex:
    """The different prompts of the held-out side, by key and by the bands of their signatures.

    About a kilobyte for each of them: a signature, its bands, and the beginning of its text for messages.

    Args:
        name: of the held-out data.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._numbers = dict[int, int]()
        self._rows = array("q")
        self._shown, self._ends = bytearray(), array("q", [0])
        self._signatures, self._bands = array("I"), array("Q")
        self._table: tuple[NDArray[np.uint64], NDArray[np.int32]] | None = None
        self._seen = set[int]()
        self._exact = set[int]()
        self._near_to = dict[int, tuple[int, int, float, str]]()

    def add(self, source_row: int, row: Preference) -> None:
        """Take in one held-out preference; without a prompt only its completions count."""
        key = prompt_key(row)
        if key in self._numbers:
            return
        self._table = None
        self._numbers[key] = len(self._numbers)
        self._rows.append(source_row)
        text = plain_text(prompt_text(row.prompt))
        self._shown += text[:_SHOWN].encode()
        self._ends.append(len(self._shown))
        signature = _signature(text)
        self._signatures.frombytes(signature.tobytes())
        self._bands.frombytes((_band_keys(signature) if text else np.zeros(_BANDS, np.uint64)).tobytes())

    def compare(self, source_row: int, row: Preference) -> None:
        """Look for the prompt of one preference of the other data set among those held out."""
        key = prompt_key(row)
        if key in self._seen:
            return
        self._seen.add(key)
        if key in self._numbers:
            self._exact.add(self._numbers[key])
            return
        text = plain_text(prompt_text(row.prompt))
        for number, share in self._near(text):
            self._near_to[number] = (self._rows[number], source_row, share, text[:_SHOWN])

    def overlap(self) -> Overlap:
        """What all preferences that were compared share with those held out."""
        exact = self._exact
        only_near = sorted(number for number in self._near_to if number not in exact)
        examples: list[tuple[int, int, float, str, str]] = []
        for number in only_near[:_KEPT_EXAMPLES]:
            held_out_row, source_row, share, text = self._near_to[number]
            examples.append((held_out_row, source_row, share, self._text(number), text))
        return Overlap(
            self.name,
            len(self._numbers),
            len(exact),
            len(only_near),
            tuple(self._rows[number] for number in sorted(exact)[:_KEPT_EXAMPLES]),
            tuple(examples),
        )

    def _text(self, number: int) -> str:
        return self._shown[self._ends[number] : self._ends[number + 1]].decode()

    def _near(self, text: str) -> Iterable[tuple[int, float]]:
        """Held-out prompts, not yet known to be near, that are near a text."""
        if not text or not self._numbers:
            return
        signature = _signature(text)
        bands, owners = self._sorted_bands()
        wanted = _band_keys(signature)
        first, last = (np.searchsorted(bands, wanted, side=side) for side in ("left", "right"))
        found = {
            int(owner) for a, b in zip(first, last, strict=True) if a < b for owner in owners[a:b].tolist()
        }
        for number in sorted(found - self._near_to.keys()):
            kept = np.frombuffer(self._signatures, np.uint32, _HASHES, 4 * _HASHES * number)
            share = float(np.mean(kept == signature))
            if share >= NEAR:
                yield number, share

    def _sorted_bands(self) -> tuple[NDArray[np.uint64], NDArray[np.int32]]:
        """The bands of all held-out prompts in ascending order, and whose each one is."""
        if self._table is None:
            bands = np.array(self._bands, dtype=np.uint64)
            order = np.argsort(bands)
            self._table = bands[order], (order // _BANDS).astype(np.int32)
        return self._table


def _band_keys(signature: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """A number for each band of a signature, (32,); equal by chance only where bands differ."""
    keys = np.arange(1, _BANDS + 1, dtype=np.uint64) * _PRIME
    for part in signature.reshape(_BANDS, -1).T:
        keys = (keys ^ part) * _PRIME
        keys ^= keys >> np.uint64(29)
    return keys
