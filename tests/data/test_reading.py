"""From files to preferences: renamed columns, tables of strings, conversations made of strings."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path
from typing import Any

import datasets
import pytest
from transformers import PreTrainedTokenizerFast

from distal.data import GradeOptions, ReadOptions, open_preferences, parse_map, prepare_dataset
from distal.data.reasons import RowProblem
from distal.data.schemas import Preference
from distal.errors import ConfigError, DataError

HARD = ['a "quoted", text', "two\nlines", "\u2028 separator", "über", "x" * 200_000]


def made_of(data: Any, **options: Any) -> list[Any]:
    return [
        made.reason if isinstance(made, RowProblem) else made
        for _, made in open_preferences(data, ReadOptions(**options))
    ]


def write_csv(path: Path, rows: list[dict[str, Any]], delimiter: str = ",") -> Path:
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    table.writeheader()
    table.writerows(rows)
    content = text.getvalue().encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["rows.csv", "rows.csv.gz", "rows.tsv"])
def test_tables_of_strings_are_read_back(tmp_path: Path, name: str) -> None:
    rows = [{"prompt": text, "chosen": text + "!", "rejected": text + "?"} for text in HARD]
    path = write_csv(tmp_path / name, rows, "\t" if "tsv" in name else ",")
    expected = [Preference(r["prompt"], (r["chosen"], r["rejected"]), (True, False)) for r in rows]
    assert made_of(path) == expected


def test_a_table_with_a_byte_order_mark_as_pandas_reads_it(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(b"\xef\xbb\xbfprompt,completion,label\r\np,c,TRUE\r\n\r\nq,d,0\r\n")
    made = made_of(tmp_path / "rows.csv")
    assert made == [Preference("p", ("c",), (True,)), Preference("q", ("d",), (False,))]


@pytest.mark.parametrize("word", ["maybe", "", "2"])
def test_labels_of_a_table_that_mean_nothing(tmp_path: Path, word: str) -> None:
    path = write_csv(tmp_path / "rows.csv", [{"prompt": "p", "completion": "c", "label": word}])
    assert made_of(path) == ["bad_label"]


def test_an_empty_cell_is_no_weight(tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "chosen": "a", "rejected": "b", "weight": cell} for cell in ("2", "", " ", "much")
    ]
    made = made_of(write_csv(tmp_path / "rows.csv", rows))
    assert [row.weight for row in made[:3]] == [2.0, None, None]
    assert made[3] == "bad_weight"


def test_grades_of_a_table(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "response": r, "score": s} for r, s in (("a", "1"), ("b", "2.5"), ("c", "none"))]
    made = made_of(write_csv(tmp_path / "rows.csv", rows), grades=GradeOptions(method="best_worst"))
    assert made == [Preference("p", ("b", "a"), (True, False)), "bad_grade"]


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"prompt,chosen,rejected\np,a\n", "the row at line 2 has 2 values, .* names 3 columns"),
        (b'prompt,chosen,rejected\np,"a,b\n', "broken CSV in the row at line 2: a quote that nothing closes"),
        (b'prompt,chosen,rejected\np,"a"b,c\n', "broken CSV in the row at line 2"),
        (b"prompt,prompt\np,a\n", "names prompt twice"),
        (b"prompt,,x\np,a,b\n", "a column without a name"),
        (b"prompt,chosen\n\xff,a\n", "line 2 is not UTF-8"),
        (b"prompt,chosen,rejected\n", "holds no rows"),
    ],
)
def test_broken_tables(tmp_path: Path, content: bytes, part: str) -> None:
    (tmp_path / "rows.csv").write_bytes(content)
    with pytest.raises(DataError, match=part):
        made_of(tmp_path / "rows.csv")


def test_renamed_columns(tmp_path: Path) -> None:
    rows = [{"question": "p", "good": "a", "bad": "b", "prompt": "not this", "x": {"deep": {"er": "z"}}}]
    expected = [Preference("p", ("a", "b"), (True, False))]
    columns = {"prompt": "question", "chosen": "good", "rejected": "bad"}
    for data in (rows, datasets.Dataset.from_list(rows)):
        assert made_of(data, columns=columns) == expected
        assert made_of(data, columns={**columns, "prompt": "x.deep.er"})[0].prompt == "z"
    path = write_csv(tmp_path / "rows.csv", [{"q": "p", "text": "c", "ok": "no"}])
    made = made_of(path, columns={"prompt": "q", "completion": "text", "label": "ok"})
    assert made == [Preference("p", ("c",), (False,))]


def test_columns_may_be_exchanged() -> None:
    rows = [{"prompt": "p", "chosen": "worse", "rejected": "better"}]
    made = made_of(rows, columns={"chosen": "rejected", "rejected": "chosen"})
    assert made == [Preference("p", ("better", "worse"), (True, False))]


@pytest.mark.parametrize("as_table", [True, False])
def test_a_renamed_column_that_is_not_there(as_table: bool) -> None:
    rows = [{"prompt": "p", "chosen": "a", "rejected": "b"}]
    data = datasets.Dataset.from_list(rows) if as_table else rows
    with pytest.raises(
        DataError, match="map names the column question, which is not there; found prompt, chosen"
    ):
        made_of(data, columns={"prompt": "question"})


def test_maps_as_words() -> None:
    assert parse_map(["a=b,c=d", "e=f.g  h=i"]) == {"a": "b", "c": "d", "e": "f.g", "h": "i"}
    for wrong, part in (
        (["a"], "no.*name=column|'a' is not of"),
        (["a="], "not of the form"),
        (["a=b a=c"], "twice"),
    ):
        with pytest.raises(ConfigError, match=part):
            parse_map(wrong)


def test_a_format_by_name_overrides_what_is_recognised() -> None:
    rows = [{"prompt": "p", "chosen": "a", "rejected": "b", "completion": "c", "label": True}]
    assert made_of(rows, format="paired") == [Preference("p", ("a", "b"), (True, False))]
    assert made_of(rows, format="unpaired") == [Preference("p", ("c",), (True,))]
    with pytest.raises(DataError, match="no column of the format stack-exchange is there"):
        made_of(rows, format="stack-exchange")


def test_strings_become_conversations() -> None:
    hh = "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Why\n\nAssistant:"
    (made,) = made_of(
        [{"chosen": hh + " Because.", "rejected": hh + " No.\n\nHuman: Oh\n\nAssistant: x"}], chat=True
    )
    roles = [("user", "Hi"), ("assistant", "Yes?"), ("user", "Why")]
    assert made.prompt == [{"role": role, "content": text} for role, text in roles]
    assert made.completions[0] == [{"role": "assistant", "content": "Because."}]
    assert [turn["role"] for turn in made.completions[1]] == ["assistant", "user", "assistant"]
    steer = {"helpfulness": 1, "correctness": 1, "coherence": 1, "complexity": 1, "verbosity": 1}
    prompt = "a\n<extra_id_1>Assistant\nb\n<extra_id_1>User\nc\n<extra_id_1>Assistant\n"
    (made,) = made_of(
        [{"prompt": prompt, "response": "r", **steer}], chat=True, grades=GradeOptions(threshold=0)
    )
    assert [turn["content"] for turn in made.prompt] == ["a", "b", "c"]
    assert made.desirable == (True,)


def test_conversations_stay_as_they_are() -> None:
    rows = [{"prompt": [{"role": "user", "content": " p "}], "completion": "c", "label": True}]
    assert made_of(rows, chat=True) == ["bad_type"]
    rows[0]["completion"] = [{"role": "assistant", "content": " c "}]
    assert made_of(rows, chat=True) == made_of(rows)


def test_reports_account_for_every_answer(words: PreTrainedTokenizerFast) -> None:
    rows = [
        {"prompt": "film", "completions": ["good", "bad", "", "a film"], "scores": [3, 1, 2, None]},
        {"prompt": "it", "completions": ["is"], "scores": [1]},
        {"prompt": "it", "completions": 3, "scores": []},
    ]
    reading = ReadOptions(grades=GradeOptions(method="all_pairs"))
    for num_proc in (None, 2):
        report = prepare_dataset(rows, words, reading=reading, num_proc=num_proc).report
        assert (report.n_read, report.n_kept, report.n_offered) == (3, 1, 5)
        assert {reason: count.count for reason, count in report.dropped.items()} == {
            "empty_completion": 1,
            "bad_grade": 1,
            "no_partner": 1,
            "bad_type": 1,
        }
        assert report.n_dropped == sum(count.count for count in report.dropped.values())
        assert "3 rows read, 5 preferences offered, 1 kept (paired), 4 left out" in report.summary()[0]
        assert any("preferences by all_pairs of score, margin 0" in note for note in report.notes)


def test_tools_reach_the_template(byte_level: PreTrainedTokenizerFast) -> None:
    messages = [{"role": "user", "content": "hello"}]
    rows = [
        {
            "prompt": messages,
            "chosen": [{"role": "assistant", "content": "world"}],
            "rejected": [{"role": "assistant", "content": "now"}],
            "tools": [{"name": "clock"}],
            "chat_template_kwargs": {"mood": "glad"},
        }
    ]
    template = "{{ mood }}:{% for t in tools %}{{ t.name }}{% endfor %}|" + str(byte_level.chat_template)
    before, byte_level.chat_template = byte_level.chat_template, template
    try:
        text = prepare_dataset(rows, byte_level).text(0)
    finally:
        byte_level.chat_template = before
    assert text["prompt"].startswith("glad:clock|<|im_start|>user\nhello")
    assert text["chosen"] == "world<|im_end|>\n"
