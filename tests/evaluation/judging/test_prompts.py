"""The judge's prompt and its answer: what is filled in is never read as a template, and verdicts are read strictly."""

from __future__ import annotations

import pytest

from distal.errors import ConfigError
from distal.evaluation.judging.prompts import DEFAULT_PROMPT, answer_reader, prompt_writer

NAMES = "{{ instruction }} {{ output_a }} {{ output_b }}"


def test_the_default_prompt_holds_everything_as_it_is():
    parts = ("a {output_b} {0}", "{instruction} {{ 7 * 7 }}", "<answer_a>\\1")
    written = prompt_writer(DEFAULT_PROMPT)(*parts)
    for part in parts:
        assert part in written


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{instruction} {output_a}", "does not use output_b"),
        ("{{ instruction }}", "does not use output_a, output_b"),
        (NAMES + "{{ secret }}", "uses secret"),
        (NAMES + "{% if %}", "not valid Jinja"),
    ],
)
def test_prompts_that_cannot_be(template: str, says: str):
    with pytest.raises(ConfigError, match=says):
        prompt_writer(template)


@pytest.mark.parametrize(
    "template",
    [
        NAMES + "{{ instruction.__class__.__mro__[1].__subclasses__() }}",
        NAMES + "{% for i in range(10**9) %}{% endfor %}",
        NAMES + "{{ instruction.nothing.there }}",
    ],
)
def test_the_sandbox_holds(template: str):
    write = prompt_writer(template)
    with pytest.raises(ConfigError, match="cannot be filled in"):
        write("i", "a", "b")


@pytest.mark.parametrize(
    ("reply", "preference"),
    [
        ("A", 1.0),
        ("b\n", 0.0),
        ("**TIE**", 0.5),
        ("[[A]]", 1.0),
        ("<think>B seems good, but no</think>\n\nA", 1.0),
        ("Answer A", None),
        ("A B", None),
        ("AB", None),
        ("C", None),
        ("", None),
        ("I", None),
        ("Both are good", None),
    ],
)
def test_replies(reply: str, preference: float | None):
    assert answer_reader()(reply) == preference


def test_patterns():
    read = answer_reader(r"\[\[(A|B|C|TIE)\]\]")
    assert read("First [[A]], then [[b]]") == 0.0
    assert read("[[C]]") is None
    assert read("A") is None
    for broken in ("(A|B", "A|B", "(A)(B)"):
        with pytest.raises(ConfigError, match="answer_pattern"):
            answer_reader(broken)
