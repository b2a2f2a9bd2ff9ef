"""The whole way from rows to a tokenised data set, and every fate a row can meet on it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from distal.data import RowCount, Truncation, prepare_dataset
from distal.data.truncation import TRUNCATIONS
from distal.errors import ConfigError, DataError, OutputError

GOOD = {"prompt": "the film", "chosen": " is good", "rejected": " is bad"}
LIKED = {"prompt": "it", "completion": " is good", "label": True}
DISLIKED = {"prompt": "it", "completion": " is bad", "label": False}
LONG = {**GOOD, "chosen": " is good" * 4}
LONG_PROMPT = {**GOOD, "prompt": "the film " * 5}


def test_every_row_is_accounted_for(words: PreTrainedTokenizerFast) -> None:
    rows: list[dict[str, Any]] = [
        GOOD,
        {**GOOD, "chosen": ""},
        {**GOOD, "rejected": " is good"},
        {**GOOD, "rejected": None},
        LONG,
        LONG_PROMPT,
        {"prompt": "a", "chosen": "b"},
        GOOD,
        {**GOOD, "chosen": " is bad", "rejected": " is good"},
        {**GOOD, "rejected": "\n\n"},
        {**GOOD, "chosen": " was </s> good"},
    ]
    dataset = prepare_dataset(rows, words, max_length=8)
    report = dataset.report
    assert (report.n_read, report.n_kept, report.n_dropped) == (11, 4, 7)
    assert {reason: count.first_rows for reason, count in report.dropped.items()} == {
        "empty_completion": (1, 9),
        "bad_type": (3, 6),
        "chosen_equals_rejected": (2,),
        "too_long": (4,),
        "prompt_too_long": (5,),
    }
    assert {remark: count.first_rows for remark, count in report.noted.items()} == {
        "duplicate": (7,),
        "contradiction": (0, 7, 8),
        "cut_at_eos": (10,),
    }
    assert [unit[0].source_row for unit in dataset] == [0, 7, 8, 10]
    assert report.n_tokens == dataset.lengths.sum() == 3 * 10 + 9
    assert report.longest == dataset.lengths.max() == 5
    assert report.n_desirable is None
    assert report.dropped["too_long"] == RowCount(
        1,
        (4,),
        "11 tokens are more than max_length=8; raise max_length, or choose truncation='truncate_prompt' or "
        "'truncate_completion'",
    )


@pytest.mark.parametrize(
    ("bad", "parts"),
    [
        ({**GOOD, "chosen": ""}, ["chosen has no text behind the prompt", "remove or mend the row"]),
        ({**GOOD, "chosen": " is bad"}, ["both sides are the same text"]),
        ({**GOOD, "chosen": 3}, ["column chosen is number 3", "give a string"]),
    ],
)
def test_bad_rows_may_be_errors(
    words: PreTrainedTokenizerFast, bad: dict[str, Any], parts: list[str]
) -> None:
    with pytest.raises(DataError) as caught:
        prepare_dataset([GOOD, bad], words, on_bad_rows="error", name="mine")
    for part in ["mine: row 1 (counted from 0)", "on_bad_rows='drop'", *parts]:
        assert part in str(caught.value)


@pytest.mark.parametrize("row", [LONG, LONG_PROMPT])
def test_long_rows_may_be_errors(words: PreTrainedTokenizerFast, row: dict[str, Any]) -> None:
    with pytest.raises(
        DataError, match=r"train: row 1 \(counted from 0\): .*max_length=8.*truncation='drop'"
    ):
        prepare_dataset([GOOD, row], words, max_length=8, truncation="error")
    # Without a word about long rows, they are rows that cannot be used like any other.
    with pytest.raises(DataError, match=r"row 1 .*max_length=8"):
        prepare_dataset([GOOD, row], words, max_length=8, on_bad_rows="error")
    assert len(prepare_dataset([GOOD, row], words, max_length=8)) == 1
    kept = prepare_dataset([GOOD, row], words, max_length=8, on_bad_rows="error", truncation="drop")
    assert len(kept) == 1


def test_truncation_of_the_prompt(words_with_bos: PreTrainedTokenizerFast) -> None:
    dataset = prepare_dataset([LONG_PROMPT], words_with_bos, max_length=6, truncation="truncate_prompt")
    assert [row.input_ids for row in dataset[0]] == [[1, 10, 6, 7, 4, 2], [1, 10, 6, 7, 5, 2]]
    assert [row.prompt_length for row in dataset[0]] == [3, 3]
    assert dataset.report.noted == {"truncated_prompt": RowCount(1, (0,))}
    assert dataset.text(0)["prompt"] == LONG_PROMPT["prompt"]


def test_truncation_of_the_completion(words: PreTrainedTokenizerFast) -> None:
    dataset = prepare_dataset([LONG], words, max_length=5, truncation="truncate_completion")
    assert [row.input_ids for row in dataset[0]] == [[10, 6, 7, 4, 7], [10, 6, 7, 5, 2]]
    assert dataset.report.noted == {"truncated_completion": RowCount(1, (0,))}


def test_sides_that_truncation_makes_equal(words: PreTrainedTokenizerFast) -> None:
    rows = [{**GOOD, "rejected": " is good film"}, GOOD]
    dataset = prepare_dataset(rows, words, max_length=4, truncation="truncate_completion")
    assert dataset.report.dropped["equal_after_truncation"].first_rows == (0,)
    with pytest.raises(DataError, match="row 0 .* the sides are equal up to token 4"):
        prepare_dataset(rows, words, max_length=4, truncation="truncate_completion", on_bad_rows="error")


def test_no_limit(words: PreTrainedTokenizerFast) -> None:
    rows = [{**GOOD, "prompt": "film " * 3000}]
    assert prepare_dataset(rows, words, max_length=None).lengths.max() == 3003
    with pytest.raises(DataError, match="no row can be used"):
        prepare_dataset(rows, words)


def test_long_work_shows_how_far_it_is(
    words: PreTrainedTokenizerFast, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [GOOD] * 2500
    prepare_dataset(rows, words, name="mine")
    assert "reading mine" not in capsys.readouterr().err  # done in a moment
    monkeypatch.setattr("distal.data.preparation._PATIENCE", 0.0)
    prepare_dataset(rows, words, name="mine")
    shown = capsys.readouterr()
    assert "reading mine" in shown.err
    assert "100%" in shown.err
    assert shown.out == ""
    monkeypatch.setattr("transformers.utils.logging.is_progress_bar_enabled", lambda: False)
    prepare_dataset(rows, words, name="mine")
    assert capsys.readouterr().err == ""


def test_temporary_file_that_cannot_be_written(
    words: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(OutputError, match=r"No such file or directory; make room .* TMPDIR"):
        prepare_dataset([GOOD] * 1000, words)


def test_nothing_left_says_why(words: PreTrainedTokenizerFast) -> None:
    with pytest.raises(DataError) as caught:
        prepare_dataset([{**GOOD, "chosen": ""}, {**GOOD, "chosen": ""}], words, name="mine")
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("mine: no row can be used")
    assert "left out 2: a completion is empty (rows 0, 1; e.g. chosen has no text" in lines[2]


def test_labels(words: PreTrainedTokenizerFast) -> None:
    dataset = prepare_dataset([LIKED, {**DISLIKED, "label": 0}, {**LIKED, "label": "yes"}], words)
    assert dataset.labels.tolist() == [True, False]
    assert dataset.report.n_desirable == 1
    assert dataset.report.dropped["bad_label"].example == "label is string 'yes'; use true or false (1 or 0)"
    with pytest.raises(DataError, match=r"only the label true is present among the usable rows.*add rows"):
        prepare_dataset([LIKED, {**DISLIKED, "completion": ""}], words)
    with pytest.raises(DataError, match="only the label false"):
        prepare_dataset([DISLIKED], words)


def test_rows_without_any(words: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    blank = tmp_path / "blank.jsonl"
    blank.write_text("\n\n")
    for data in ([], blank, datasets.Dataset.from_dict({"prompt": [], "chosen": [], "rejected": []})):
        with pytest.raises(DataError, match="holds no rows"):
            prepare_dataset(data, words)


def test_wrong_columns(words: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="wrong columns; found answer, question; expected prompt, chosen, rejected"
    ):
        prepare_dataset([{"question": "q", "answer": "a"}], words)


def test_columns_come_from_all_of_the_first_rows(words: PreTrainedTokenizerFast) -> None:
    assert len(prepare_dataset([{"prompt": "p"}, GOOD], words)) == 1


def test_broken_lines_stop_even_where_bad_rows_are_dropped(
    words: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n" * 1500 + "{broken\n")
    with pytest.raises(DataError, match=r"rows\.jsonl: broken JSON at line 1501"):
        prepare_dataset(path, words)


def test_all_sources_give_the_same_data_set(words: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    rows = [GOOD, {**GOOD, "prompt": "it"}, {**GOOD, "chosen": " was"}] * 500
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    dataset = datasets.Dataset.from_list(rows)
    dataset.save_to_disk(tmp_path / "folder")
    dataset.to_parquet(tmp_path / "rows.parquet")
    sources = [rows, dataset, tmp_path / "rows.jsonl.gz", tmp_path / "folder", tmp_path / "rows.parquet"]
    prepared = [prepare_dataset(source, words) for source in sources]
    assert {found.fingerprint for found in prepared} == {prepared[0].fingerprint}
    assert [unit[0].source_row for unit in prepared[2]] == list(range(1500))


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_processes_change_nothing(words: PreTrainedTokenizerFast) -> None:
    rows: list[dict[str, Any]] = [{**GOOD, "prompt": "film " * (i % 7)} for i in range(3500)]
    rows[2500] = {**GOOD, "chosen": None}
    alone, together = (prepare_dataset(rows, words, num_proc=n) for n in (None, 2))
    assert together.fingerprint == alone.fingerprint
    assert together.report == alone.report
    with pytest.raises(DataError, match="row 2500 "):
        prepare_dataset(rows, words, num_proc=2, on_bad_rows="error")


def test_plain_rows_and_conversations_may_be_mixed(byte_level: PreTrainedTokenizerFast) -> None:
    messages = {
        "prompt": [{"role": "user", "content": "film"}],
        "chosen": [{"role": "assistant", "content": "good"}],
        "rejected": [{"role": "assistant", "content": "bad"}],
    }
    dataset = prepare_dataset([messages, GOOD, messages], byte_level)
    alone = [prepare_dataset([row], byte_level)[0] for row in (messages, GOOD)]
    assert [row.input_ids for row in dataset[0]] == [row.input_ids for row in alone[0]]
    assert [row.input_ids for row in dataset[1]] == [row.input_ids for row in alone[1]]
    assert [row.input_ids for row in dataset[2]] == [row.input_ids for row in alone[0]]


def test_conversations_are_tokenised_as_the_tokenizer_does_it(byte_level: PreTrainedTokenizerFast) -> None:
    prompt = [{"role": "system", "content": "be good"}, {"role": "user", "content": "the film?"}]
    answer = [{"role": "assistant", "content": " über 🙂"}]
    rows = [{"prompt": prompt, "completion": answer, "label": label} for label in (True, False)]
    dataset = prepare_dataset(rows, byte_level)
    whole = byte_level.apply_chat_template([*prompt, *answer], return_dict=False)
    start: Any = byte_level.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
    assert dataset[0][0].input_ids == whole
    assert dataset[0][0].prompt_length == len(start)
    turn_end = byte_level.convert_tokens_to_ids("<|im_end|>")
    assert dataset[0][0].input_ids[len(start) :].count(turn_end) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"max_length": 1},
        {"max_length": 10.0},
        {"max_length": True},
        {"on_bad_rows": "ignore"},
        {"truncation": "keep_end"},
        {"num_proc": 0},
    ],
)
def test_options_that_cannot_be(words: PreTrainedTokenizerFast, options: dict[str, Any]) -> None:
    (option, value), *_ = options.items()
    with pytest.raises(ConfigError, match=f"{option}={value!r}: expected"):
        prepare_dataset([GOOD], words, **options)


TEXTS = st.text("ab é\n", min_size=1, max_size=8)
ROLES = st.sampled_from(["user", "assistant", "system"])
MESSAGES = st.lists(st.fixed_dictionaries({"role": ROLES, "content": TEXTS}), max_size=3)
ODD = (
    st.none() | st.integers(-1, 2) | st.floats() | st.lists(TEXTS | st.none(), max_size=2) | st.just("\ud800")
)
VALUES = st.one_of(TEXTS, TEXTS, TEXTS, MESSAGES, ODD)
LABELS = st.one_of(st.booleans(), st.booleans(), ODD)
KINDS = [
    [{"prompt": "a", "chosen": " a", "rejected": " b"}],
    [{"chosen": "\n\nHuman: a\n\nAssistant: a", "rejected": "\n\nHuman: a\n\nAssistant: b"}],
    [{"prompt": "", "completion": "a", "label": True}, {"prompt": "a", "completion": "b", "label": False}],
]


@st.composite
def rows_with_some_good_ones(draw: st.DrawFn) -> list[dict[str, Any]]:
    good = draw(st.sampled_from(KINDS))
    plain = {column: st.booleans() if column == "label" else TEXTS for column in good[0]}
    messages = {column: st.booleans() if column == "label" else MESSAGES for column in good[0]}
    any_value = {column: LABELS if column == "label" else VALUES for column in good[0]}
    odd = [st.fixed_dictionaries(columns) for columns in (plain, messages, any_value)]
    odd.append(st.fixed_dictionaries({}, optional={**any_value, "other": ODD}))
    rows = draw(st.lists(st.integers(0, 3).flatmap(odd.__getitem__), max_size=6))
    return draw(st.permutations([*good, *rows]))


@given(rows=rows_with_some_good_ones(), policy=st.sampled_from([p for p in TRUNCATIONS if p != "error"]))
def test_no_row_can_do_more_than_be_refused(
    byte_level: PreTrainedTokenizerFast, rows: list[dict[str, Any]], policy: Truncation
) -> None:
    dataset = prepare_dataset(rows, byte_level, max_length=40, truncation=policy)
    report = dataset.report
    assert report.n_read == len(rows)
    assert report.n_kept == len(dataset) > 0
    assert sum(count.count for count in report.dropped.values()) == report.n_dropped
    for unit in dataset:
        assert {row.desirable for row in unit} == {True, False} or dataset.kind == "unpaired"
        for row in unit:
            assert 1 <= row.prompt_length < len(row.input_ids) <= 40
