from __future__ import annotations

import re
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distal.demo.snippets import LICENSE_FILE, Snippet, near_duplicates, split_snippets
from distal.errors import ConfigError


def words(text):
    return re.findall(r"[a-z0-9]+", text.lower())


def test_the_packaged_snippets_are_the_published_ones(snippets):
    assert len(snippets) == 10_662
    assert sum(snippet.liked for snippet in snippets) == 5_331
    assert snippets[2] == Snippet("effective but too-tepid biopic", True)
    assert all(snippet.text for snippet in snippets)


def test_the_packaged_file_is_the_shared_one(shared_data):
    packaged = files("distal.demo").joinpath("sentence-polarity.jsonl.gz").read_bytes()
    assert packaged == (shared_data / "reviews" / "sentence-polarity.jsonl.gz").read_bytes()


def test_the_notice_names_authors_licence_source_and_change():
    notice = files("distal.demo").joinpath(LICENSE_FILE).read_text()
    for part in ("Bo Pang and Lillian Lee", "CC BY 4.0", "creativecommons.org/licenses/by/4.0", "Changed:"):
        assert part in notice


def test_split_has_the_counts_asked_for_and_loses_nothing(snippets, split):
    assert len(split.held_out) == 1000
    assert sum(snippet.liked for snippet in split.held_out) == 500
    together = [*split.train, *split.held_out]
    assert sorted((s.text, s.liked) for s in together) == sorted((s.text, s.liked) for s in snippets)


def test_no_held_out_snippet_has_the_words_of_a_training_snippet(split):
    trained = {tuple(words(snippet.text)) for snippet in split.train}
    assert not [s.text for s in split.held_out if tuple(words(s.text)) in trained]


def test_no_held_out_snippet_shares_half_its_words_with_one_that_begins_or_ends_alike(split):
    """Independent of how candidates are found: compares all snippets with the same first or last three words."""
    ends = {}
    for snippet in split.train:
        spelled = words(snippet.text)
        for end in (("first", *spelled[:3]), ("last", *spelled[-3:])):
            ends.setdefault(end, []).append(set(spelled))
    for snippet in split.held_out:
        spelled = words(snippet.text)
        near = [*ends.get(("first", *spelled[:3]), []), *ends.get(("last", *spelled[-3:]), [])]
        if len(near) <= 20:  # rarer than a set phrase
            mine = set(spelled)
            assert all(len(mine & other) < 0.5 * len(mine | other) for other in near), snippet.text


def test_split_depends_on_the_seed_alone(snippets, split):
    assert split_snippets(snippets, 1000, seed=0) == split
    assert split_snippets(snippets, 1000, seed=1).held_out != split.held_out


def test_near_duplicates_by_hand():
    texts = [
        "doesn't really add up to much .",
        "doesn't add up to much .",  # 5 of 6 words: doesn t add up to much / + really
        "one of the finest films of the decade",
        "a tale",
        "A tale !",
        "a fable",
    ]
    assert near_duplicates(texts) == {0, 1, 3, 4}


@given(st.lists(st.text("abc ", min_size=5, max_size=12), max_size=6))
def test_copies_are_near_duplicates_whatever_the_order(texts):
    doubled = [text + " abba" for text in texts for _ in range(2)]
    assert near_duplicates(doubled) == set(range(len(doubled))) == near_duplicates(doubled[::-1])


@pytest.mark.parametrize("held_out", [0, 3, -2])
def test_an_impossible_number_is_refused(snippets, held_out):
    with pytest.raises(ConfigError, match=f"got {held_out}"):
        split_snippets(snippets, held_out)


def test_more_than_there_are_is_refused():
    few = [Snippet(f"{word} {word}{word} x{word}", word < "c") for word in "abcd"]
    with pytest.raises(ConfigError, match="only 2 of label True"):
        split_snippets(few, 4)
    assert len(split_snippets(few, 2).train) == 2
