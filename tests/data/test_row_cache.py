"""Tokenised rows on disk: found again, told apart, mended, shared, and never half there."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import pickle
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from transformers import AddedToken, BertGenerationTokenizer, PreTrainedTokenizerFast

from distal.data import ReadOptions, TokenizedPreferences, prepare_dataset
from distal.data.identity import tokenizer_digest
from distal.data.tokenization import Encoder
from distal.errors import DataError

ROWS = [
    {"prompt": "the film", "chosen": f" is good{' good' * (i % 5)}", "rejected": f" is bad{' bad' * (i % 3)}"}
    for i in range(1500)
]
FORK = multiprocessing.get_context("fork")
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def write(path: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "rows.jsonl")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts each call of the tokenizer was given."""
    counts: list[int] = []
    encode = Encoder.encode

    def counting(self: Encoder, texts: Any, **options: Any) -> Any:
        counts.append(len(texts))
        return encode(self, texts, **options)

    monkeypatch.setattr(Encoder, "encode", counting)
    return counts


def entries(cache: Path) -> list[Path]:
    return sorted(path for path in (cache / "rows").iterdir() if path.name != "locks")


def content(dataset: TokenizedPreferences) -> list[Any]:
    texts = [dataset.text(i) for i in range(len(dataset))]
    rows = [(list(row.input_ids), row.prompt_length, row.source_row) for unit in dataset for row in unit]
    return [dataset.kind, texts, rows, dataset.report]


def test_the_second_run_does_not_tokenise(
    words: PreTrainedTokenizerFast, file: Path, cache: Path, encoded: list[int]
) -> None:
    plain = prepare_dataset(file, words)
    first = prepare_dataset(file, words, cache_dir=cache)
    encoded.clear()
    second = prepare_dataset(file, words, cache_dir=cache)
    assert sum(encoded) == 0
    assert content(plain) == content(first) == content(second)
    assert plain.fingerprint == first.fingerprint == second.fingerprint
    assert len(entries(cache)) == 1


def test_a_copy_of_the_file_is_the_same_data_under_its_own_name(
    words: PreTrainedTokenizerFast, file: Path, cache: Path, encoded: list[int]
) -> None:
    prepare_dataset(file, words, cache_dir=cache)
    encoded.clear()
    copy = shutil.copy(file, file.with_name("copy.jsonl"))
    assert prepare_dataset(copy, words, cache_dir=cache).report.name == str(copy)
    assert sum(encoded) == 0


def test_what_the_rows_depend_on_tells_entries_apart(
    words: PreTrainedTokenizerFast, file: Path, cache: Path
) -> None:
    other = write(file.with_name("other.jsonl"), [*ROWS[:-1], {**ROWS[-1], "prompt": "a film"}])
    renamed = ReadOptions(columns={"chosen": "rejected", "rejected": "chosen"})
    calls: list[Callable[[], Any]] = [
        lambda: prepare_dataset(file, words, cache_dir=cache),
        lambda: prepare_dataset(other, words, cache_dir=cache),
        lambda: prepare_dataset(file, words, cache_dir=cache, max_length=None),
        lambda: prepare_dataset(file, words, cache_dir=cache, truncation="truncate_prompt"),
        lambda: prepare_dataset(file, words, cache_dir=cache, on_bad_rows="error"),
        lambda: prepare_dataset(file, words, cache_dir=cache, reading=renamed),
    ]
    for number, call in enumerate(calls, start=1):
        call()
        assert len(entries(cache)) == number
    words.chat_template = "{{ messages }}"
    calls[0]()
    words.add_tokens(["good good"])
    calls[0]()
    words.eos_token = "was"
    calls[0]()
    assert len(entries(cache)) == len(calls) + 3
    # One process or two, and what to call the rows: no part of the content.
    prepare_dataset(file, words, cache_dir=cache, num_proc=2, name="mine")
    assert len(entries(cache)) == len(calls) + 3


def test_what_a_tokenizer_is_told_later_tells_entries_apart(
    words: PreTrainedTokenizerFast, file: Path, cache: Path
) -> None:
    ended = write(file.with_name("ended.jsonl"), [{**row, "chosen": " is</s>good"} for row in ROWS])
    for split_special_tokens in (False, True):
        words.split_special_tokens = split_special_tokens
        found = prepare_dataset(ended, words, cache_dir=cache)
        assert found.fingerprint == prepare_dataset(ended, words).fingerprint
    assert len(entries(cache)) == 2


def test_a_token_that_a_slow_tokenizer_is_given_is_a_part_of_it(shared_data: Path) -> None:
    vocabulary = str(shared_data / "tokenizers" / "mistral" / "tokenizer.model")
    found: list[str | None] = []
    for added in ([], ["zqx"], [AddedToken("zqx", single_word=True)]):
        tokenizer = BertGenerationTokenizer(vocab_file=vocabulary)
        tokenizer.add_tokens(added)
        found.append(tokenizer_digest(tokenizer))
    assert None not in found
    assert len(set(found)) == 3


def test_processes_write_the_same_bytes(words: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [*ROWS, {**ROWS[0], "chosen": None}, *ROWS]
    file = write(tmp_path / "rows.jsonl", rows)
    written: list[dict[str, bytes]] = []
    for num_proc in (None, 2):
        prepare_dataset(file, words, cache_dir=tmp_path / str(num_proc), num_proc=num_proc)
        (entry,) = entries(tmp_path / str(num_proc))
        written.append({path.name: path.read_bytes() for path in entry.iterdir()})
    assert written[0] == written[1]
    assert set(written[0]) == {"rows.arrow", "about.json"}


def test_data_sets_are_known_by_their_rows(
    words: PreTrainedTokenizerFast, tmp_path: Path, cache: Path, encoded: list[int]
) -> None:
    dataset = datasets.Dataset.from_list(ROWS)
    dataset.save_to_disk(tmp_path / "folder")
    first = prepare_dataset(dataset, words, cache_dir=cache)
    encoded.clear()
    for same in (tmp_path / "folder", datasets.Dataset.from_list(ROWS)):
        assert prepare_dataset(same, words, cache_dir=cache).fingerprint == first.fingerprint
    assert sum(encoded) == 0
    assert len(prepare_dataset(dataset.select(range(1, 1400)), words, cache_dir=cache)) == 1399
    assert len(entries(cache)) == 2


def test_lists_are_not_kept(words: PreTrainedTokenizerFast, cache: Path) -> None:
    assert len(prepare_dataset(ROWS[:5], words, cache_dir=cache)) == 5
    assert not cache.exists()


def test_a_failure_keeps_nothing(words: PreTrainedTokenizerFast, tmp_path: Path, cache: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [*ROWS, {**ROWS[0], "chosen": 3}])
    with pytest.raises(DataError, match="row 1500"):
        prepare_dataset(file, words, cache_dir=cache, on_bad_rows="error")
    assert entries(cache) == []


def shorten(entry: Path) -> None:
    file = entry / "rows.arrow"
    file.write_bytes(file.read_bytes()[:-100])


def flip(entry: Path) -> None:
    file = entry / "rows.arrow"
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(bytes(raw))


def change_the_report(entry: Path) -> None:
    file = entry / "about.json"
    file.write_text(file.read_text().replace('"n_kept": 1500', '"n_kept": 1501'))


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "rows cut off": shorten,
    "one bit of the rows": flip,
    "no rows": lambda entry: (entry / "rows.arrow").unlink(),
    "no report": lambda entry: (entry / "about.json").unlink(),
    "an empty report": lambda entry: (entry / "about.json").write_text(""),
    "a report that is a list": lambda entry: (entry / "about.json").write_text("[]"),
    "another report": change_the_report,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_named_and_made_again(
    words: PreTrainedTokenizerFast, file: Path, cache: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    expected = content(prepare_dataset(file, words, cache_dir=cache))
    (entry,) = entries(cache)
    DAMAGES[damage](entry)
    with caplog.at_level(logging.WARNING):
        assert content(prepare_dataset(file, words, cache_dir=cache)) == expected
    assert f"the tokenised rows in {entry} are damaged" in caplog.text
    assert entries(cache) == [entry]
    caplog.clear()
    assert content(prepare_dataset(file, words, cache_dir=cache)) == expected
    assert caplog.text == ""


def test_a_folder_that_cannot_be_written_is_done_without(
    words: PreTrainedTokenizerFast, file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "taken").write_text("a file")
    dataset = prepare_dataset(file, words, cache_dir=tmp_path / "taken")
    assert len(dataset) == 1500
    assert f"cannot keep tokenised rows in {tmp_path / 'taken' / 'rows'}" in caplog.text


def test_a_file_that_changes_while_it_is_read_is_not_kept(
    words: PreTrainedTokenizerFast, file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = Encoder.encode

    def appending(self: Encoder, texts: Any, **options: Any) -> Any:
        with file.open("a") as more:
            more.write("\n")
        return encode(self, texts, **options)

    monkeypatch.setattr(Encoder, "encode", appending)
    assert len(prepare_dataset(file, words, cache_dir=cache)) == 1500
    assert entries(cache) == []


def in_another_process(work: Callable[[], None]) -> Any:
    process = FORK.Process(target=work)
    process.start()
    return process


@pytest.mark.parametrize("num_proc", [None, 2])
def test_a_killed_run_leaves_nothing_behind(
    words: PreTrainedTokenizerFast, file: Path, cache: Path, num_proc: int | None, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    encode = Encoder.encode

    def hang(self: Encoder, texts: Any, **options: Any) -> Any:
        with pids.open("a") as known:
            known.write(f"{os.getpid()}\n")
        time.sleep(60)
        return encode(self, texts, **options)

    def work() -> None:
        Encoder.encode = hang
        prepare_dataset(file, words, cache_dir=cache, num_proc=num_proc)

    process = in_another_process(work)
    wait_until(pids.exists)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert len(entries(cache)) == 1  # what was being written
    wait_until(lambda: not any(map(alive, map(int, pids.read_text().split()))))
    dataset = prepare_dataset(file, words, cache_dir=cache)
    assert dataset.fingerprint == prepare_dataset(ROWS, words).fingerprint
    (entry,) = entries(cache)
    assert {path.name for path in entry.iterdir()} == {"rows.arrow", "about.json"}


def test_two_processes_at_once_share_the_work(
    words: PreTrainedTokenizerFast, file: Path, cache: Path, tmp_path: Path
) -> None:
    encode = Encoder.encode

    def slow(self: Encoder, texts: Any, **options: Any) -> Any:
        time.sleep(0.2)
        with (tmp_path / f"encoded-{os.getpid()}").open("a") as known:
            known.write(f"{len(texts)}\n")
        return encode(self, texts, **options)

    def work() -> None:
        Encoder.encode = slow
        found = prepare_dataset(file, words, cache_dir=cache)
        (tmp_path / f"found-{os.getpid()}").write_text(found.fingerprint)

    processes = [in_another_process(work) for _ in range(3)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    found = {path.read_text() for path in tmp_path.glob("found-*")}
    assert found == {prepare_dataset(ROWS, words).fingerprint}
    assert len(list(tmp_path.glob("encoded-*"))) == 1
    assert len(entries(cache)) == 1


def test_rows_that_have_a_file_travel_by_its_name(
    words: PreTrainedTokenizerFast, file: Path, cache: Path
) -> None:
    dataset = prepare_dataset(file, words, cache_dir=cache)
    (entry,) = entries(cache)
    pickled = pickle.dumps(dataset)
    assert len(pickled) < (entry / "rows.arrow").stat().st_size / 10
    assert content(pickle.loads(pickled)) == content(dataset)
    scored = dataset.with_reference_scores([0.5] * dataset.n_rows)
    assert pickle.loads(pickle.dumps(scored))[3][1].reference_score == 0.5


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked about yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(holds: Callable[[], bool]) -> None:
    for _ in range(600):
        if holds():
            return
        time.sleep(0.05)
    raise AssertionError("waited for half a minute")
