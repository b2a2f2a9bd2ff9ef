"""The movie-review snippets in the package, and their split into training and held-out snippets.

The snippets are the Sentence Polarity Dataset v1.0 of Bo Pang and Lillian Lee (2005), CC BY 4.0; the notice
is `sentence-polarity.LICENSE.txt` beside the file.
"""

from __future__ import annotations

import gzip
import json
import random
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import combinations

from distal.errors import ConfigError

__all__ = ["LICENSE_FILE", "Snippet", "SnippetSplit", "load_snippets", "near_duplicates", "split_snippets"]

_FILE = "sentence-polarity.jsonl.gz"
LICENSE_FILE = "sentence-polarity.LICENSE.txt"
_WORD = re.compile(r"[a-z0-9]+")
_SIMILAR = 0.5  # share of common words from which two snippets count as near-duplicates
_COMMON_TRIGRAM = (
    20  # a trigram in more snippets than this is a set phrase and says nothing about duplication
)


@dataclass(frozen=True, slots=True)
class Snippet:
    """A sentence from a film review and the verdict of that review.

    Attributes:
        text: the sentence, lower case, with blanks around its punctuation.
        liked: True where the review is thumbs up.
    """

    text: str
    liked: bool


@dataclass(frozen=True, slots=True)
class SnippetSplit:
    """Training and held-out snippets; no snippet of one has a near-duplicate in the other."""

    train: list[Snippet]
    held_out: list[Snippet]

    def rows(self, part: Sequence[Snippet]) -> list[dict[str, object]]:
        """Unpaired preference rows, with the columns `prompt` (empty), `completion` and `label`."""
        return [{"prompt": "", "completion": snippet.text, "label": snippet.liked} for snippet in part]


def load_snippets() -> list[Snippet]:
    """The 10,662 snippets that come with the package: 5,331 liked, 5,331 disliked.

    Examples:
        >>> len(load_snippets())
        10662
    """
    with (
        files("distal.demo").joinpath(_FILE).open("rb") as raw,
        gzip.open(raw, "rt", encoding="utf-8") as lines,
    ):
        records = [json.loads(line) for line in lines]
    return [Snippet(record["completion"].strip(), record["label"]) for record in records]


def near_duplicates(texts: Sequence[str]) -> set[int]:
    """Indices of the texts that share at least half their words with another one.

    Words are runs of letters and digits without regard to case. Only texts with a trigram in common are
    compared (texts of fewer than three words: with the same words), which finds copies with a small change.

    Examples:
        >>> sorted(near_duplicates(["a pretentious mess .", "the best film", ". . . A pretentious mess"]))
        [0, 2]
    """
    words = [_WORD.findall(text.lower()) for text in texts]
    holders: dict[tuple[str, ...], set[int]] = defaultdict(set)
    for index, sequence in enumerate(words):
        holders[tuple(sequence)].add(index)
        for trigram in zip(sequence, sequence[1:], sequence[2:], strict=False):
            holders[trigram].add(index)
    candidates = {
        pair
        for group in holders.values()
        if len(group) <= _COMMON_TRIGRAM
        for pair in combinations(sorted(group), 2)
    }
    sets = [set(sequence) for sequence in words]
    close = [(i, j) for i, j in candidates if len(sets[i] & sets[j]) >= _SIMILAR * len(sets[i] | sets[j])]
    return {index for pair in close for index in pair}


def split_snippets(snippets: Sequence[Snippet], held_out: int = 1000, *, seed: int = 0) -> SnippetSplit:
    """Draws `held_out` snippets, half of them liked; all the others are for training.

    Snippets with a near-duplicate are never held out, so that the model cannot have seen a held-out sentence.

    Args:
        snippets: all snippets.
        held_out: how many to hold out, an even number.
        seed: of the draw; the same seed gives the same split.

    Returns:
        The split; the order is shuffled on both sides.

    Raises:
        ConfigError: `held_out` is odd, or more than the snippets of one label that have no near-duplicate.
    """
    if held_out < 2 or held_out % 2:
        raise ConfigError(
            f"held_out must be an even number of at least 2 (half liked, half disliked), got {held_out}"
        )
    repeated = near_duplicates([snippet.text for snippet in snippets])
    order = random.Random(seed).sample(range(len(snippets)), len(snippets))
    chosen: set[int] = set()
    for liked in (True, False):
        free = [index for index in order if snippets[index].liked is liked and index not in repeated]
        if len(free) <= held_out // 2:
            raise ConfigError(
                f"held_out={held_out} asks for {held_out // 2} snippets of each label, but only {len(free)} "
                f"of label {liked} have no near-duplicate and some must remain for training: ask for fewer"
            )
        chosen.update(free[: held_out // 2])
    return SnippetSplit(
        train=[snippets[index] for index in order if index not in chosen],
        held_out=[snippets[index] for index in order if index in chosen],
    )
