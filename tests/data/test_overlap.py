"""Shared prompts, held to exact Jaccard similarities over all pairs."""

from __future__ import annotations

import random
import tracemalloc
from typing import Any

import pytest

from distal.data.overlap import NEAR, PromptIndex, similarity
from distal.data.schemas import Preference


def pieces(text: str) -> set[str]:
    normalised = " ".join(text.lower().split())
    return {normalised[i : i + 5] for i in range(max(1, len(normalised) - 4))}


def jaccard(one: str, other: str) -> float:
    """Similarity of the sets of five-character pieces, by Python's sets."""
    return len(pieces(one) & pieces(other)) / len(pieces(one) | pieces(other))


def row(prompt: Any) -> Preference:
    completion: Any = "c" if isinstance(prompt, str) else [{"role": "assistant", "content": "c"}]
    return Preference(prompt, (completion,), (True,))


def overlap_of(rows: list[Any], held_out: list[Any]) -> Any:
    index = PromptIndex("held out")
    for number, prompt in enumerate(held_out):
        index.add(number, row(prompt))
    for number, prompt in enumerate(rows):
        index.compare(number, row(prompt))
    return index.overlap()


def sentences(n: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(f"word{draw.randrange(3000)}" for _ in range(draw.randrange(30, 90))) for _ in range(n)]


def changed(text: str, words: int, seed: int) -> str:
    """A text with some of its words replaced."""
    draw, parts = random.Random(seed), text.split()
    for place in draw.sample(range(len(parts)), min(words, len(parts))):
        parts[place] = "other"
    return " ".join(parts)


def test_similarity_is_that_of_sets() -> None:
    texts = [
        *sentences(6, 0),
        *(changed(text, 2, i) for i, text in enumerate(sentences(6, 0))),
        "",
        "a",
        "über ß",
    ]
    for one in texts:
        for other in texts:
            assert similarity(one, other) == pytest.approx(jaccard(one, other))


def test_near_prompts_are_those_that_comparing_all_finds() -> None:
    held_out = sentences(60, 1)
    rows = [changed(text, i % 7, i) for i, text in enumerate(held_out) if i % 3] + sentences(60, 2)
    best = {number: max(jaccard(text, other) for other in rows) for number, text in enumerate(held_out)}
    found = overlap_of(rows, held_out)
    exact = sum(share == 1 for share in best.values())
    # The estimate has a standard deviation of at most 0.045: what is clear must be right.
    least = sum(NEAR + 0.1 < share < 1 for share in best.values())
    most = sum(NEAR - 0.1 < share < 1 for share in best.values())
    assert (found.n_prompts, found.n_exact) == (60, exact)
    assert least > 5
    assert least <= found.n_near <= most
    for held_out_row, number, share, prompt, other in found.near_examples:
        assert share == pytest.approx(jaccard(held_out[held_out_row], rows[number]), abs=0.15)
        assert held_out[held_out_row].startswith(prompt)
        assert rows[number].startswith(other)


def test_long_prompts_are_compared_as_wholes_and_cost_little() -> None:
    draw = random.Random(4)
    long = "".join(draw.choice("abcdefghijklmnopqrstuvwxyz ") for _ in range(200_000))
    other = "".join(draw.choice("abcdefghijklmnopqrstuvwxyz ") for _ in range(20_000))
    # The first and the last tenth differ: 180,000 pieces are shared, of 220,000 and of 200,000.
    tracemalloc.start()
    found = overlap_of([other + long[20_000:], long[:150_000]], [long])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.n_near == 1
    assert found.near_examples[0][1] == 0
    assert found.near_examples[0][2] == pytest.approx(jaccard(long, other + long[20_000:]), abs=0.15)
    assert peak < 60e6  # all hashes of all pieces at once would be 205 MB


def test_case_white_space_and_roles_do_not_matter() -> None:
    system = {"role": "system", "content": "Be kind."}
    found = overlap_of(
        ["What IS\n it?", [system, {"role": "user", "content": "Hello there"}]],
        ["what is it?", "hello  there", "something else", "what is it? "],
    )
    assert (found.n_prompts, found.n_exact, found.n_near, found.exact_rows) == (3, 2, 0, (0, 1))


def test_rows_without_prompts_are_shared_by_their_completions() -> None:
    index = PromptIndex("held out")
    index.add(0, Preference("", ("one",), (True,)))
    index.add(1, Preference(" ", ("two",), (True,)))
    index.compare(0, Preference("", ("two",), (False,)))
    index.compare(1, Preference("", ("three",), (False,)))
    found = index.overlap()
    assert (found.n_prompts, found.n_exact, found.n_near, found.exact_rows) == (2, 1, 0, (1,))
    assert found.to_dict()["exact"] == 1
