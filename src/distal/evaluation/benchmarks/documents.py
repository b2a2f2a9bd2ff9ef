"""Benchmark files on disk as documents, in the columns that lm-evaluation-harness's own tasks read.

The YAML files beside this module name these functions. Documents are held in memory: nothing is copied into a cache.
"""

from __future__ import annotations

import csv
import io
import math
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from distal.data.files import missing_path, read_jsonl, unreadable
from distal.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = [
    "arc_challenge",
    "arc_easy",
    "gsm8k",
    "hellaswag",
    "mmlu",
    "mmlu_subjects",
    "share_of_truth",
    "truthfulqa",
    "winogrande",
]

Row = Mapping[str, Any]
Splits = dict[str, "Dataset"]

_LETTERS = "ABCDEFGHIJ"
_MMLU_COLUMNS = 6
_MMLU_SPLITS = ("test", "dev")


def arc_easy(folder: str, **others: Any) -> Splits:
    """ARC-Easy from `arc-easy-test.jsonl[.gz]`, instruction form."""
    return {"test": _documents(folder, "arc-easy-test", _arc)}


def arc_challenge(folder: str, **others: Any) -> Splits:
    """ARC-Challenge from `arc-challenge-test.jsonl[.gz]`, instruction form."""
    return {"test": _documents(folder, "arc-challenge-test", _arc)}


def winogrande(folder: str, **others: Any) -> Splits:
    """WinoGrande from `winogrande-val.jsonl[.gz]`, instruction form."""
    return {"validation": _documents(folder, "winogrande-val", _winogrande)}


def truthfulqa(folder: str, **others: Any) -> Splits:
    """TruthfulQA from `truthfulqa-en.jsonl[.gz]`: question, best_answer, correct_answers, incorrect_answers."""
    return {"validation": _documents(folder, "truthfulqa-en", _truthfulqa)}


def gsm8k(folder: str, **others: Any) -> Splits:
    """GSM8K from `gsm8k-test.jsonl[.gz]`: question, answer."""
    return {"test": _documents(folder, "gsm8k-test", _gsm8k)}


def hellaswag(folder: str, **others: Any) -> Splits:
    """HellaSwag from `hellaswag-val.jsonl[.gz]`: activity_label, ctx_a, ctx_b, endings, label."""
    return {"validation": _documents(folder, "hellaswag-val", _hellaswag)}


def mmlu(folder: str, subject: str, **others: Any) -> Splits:
    """One subject of MMLU from `mmlu.zip`, which holds `data/SPLIT/SUBJECT_SPLIT.csv` for test and dev."""
    from datasets import Dataset

    path = _mmlu_path(folder)
    with _archive(path) as archive:
        return {
            split: Dataset.from_list(list(_mmlu_rows(path, archive, subject, split)))
            for split in _MMLU_SPLITS
        }


def mmlu_subjects(folder: str) -> list[str]:
    """Subjects of `mmlu.zip` in alphabetical order.

    Raises:
        DataError: the archive is missing or damaged, or holds no subject.
    """
    path = _mmlu_path(folder)
    with _archive(path) as archive:
        names = [re.fullmatch(r"data/test/(\w+)_test\.csv", name) for name in archive.namelist()]
    subjects = sorted(found[1] for found in names if found)
    if not subjects:
        raise DataError(f"{path}: holds no data/test/SUBJECT_test.csv; is it the archive of MMLU?")
    return subjects


def share_of_truth(doc: Row, results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """TruthfulQA's MC2: probability of the correct answers among all answers offered.

    `sum_{i correct} p_i / sum_i p_i` with p_i = exp(log-likelihood of answer i), found without underflow.

    Examples:
        >>> doc = {"mc2_targets": {"labels": [1, 0]}}
        >>> share_of_truth(doc, [(-1000.0, False), (-1000.0, False)])
        {'acc': 0.5}
    """
    scores = [score for score, _ in results]
    highest = max(scores)
    weights = [math.exp(score - highest) for score in scores]
    labels = doc["mc2_targets"]["labels"]
    truth = math.fsum(weight for weight, label in zip(weights, labels, strict=True) if label == 1)
    return {"acc": truth / math.fsum(weights)}


def _documents(folder: str, stem: str, make: Callable[[Row], Row]) -> Dataset:
    """All rows of a file, each made into a document."""
    from datasets import Dataset

    path = _find(folder, stem)
    documents: list[dict[str, Any]] = []
    for number, row in enumerate(read_jsonl(path, ()), start=1):
        try:
            documents.append(dict(make(row)))
        except _UnreadableRowError as error:
            raise DataError(f"{path}: row {number}: {error}") from error
    if not documents:
        raise DataError(f"{path}: the file holds no rows; copy or download it again")
    return Dataset.from_list(documents)


def _find(folder: str, stem: str) -> Path:
    """The file of a benchmark, gzipped or not."""
    candidates = [Path(folder) / f"{stem}.jsonl.gz", Path(folder) / f"{stem}.jsonl"]
    found = next((path for path in candidates if path.exists()), None)
    if found is None:
        raise missing_path(candidates[0])
    return found


class _UnreadableRowError(ValueError):
    """What is wrong with a row; the file and the row are added by whoever knows them."""


def _text(row: Row, column: str) -> str:
    value = row.get(column)
    if not isinstance(value, str) or not value.strip():
        found = "is missing" if value is None else f"holds {value!r}"
        raise _UnreadableRowError(f"{column} {found}, expected a text")
    return value


def _texts(row: Row, column: str) -> list[str]:
    """A list of texts; empty ones, which TruthfulQA has, are no answers and left out."""
    value = row.get(column)
    items = cast(list[Any], value) if isinstance(value, list) else [None]
    texts = [item for item in items if isinstance(item, str) and item.strip()]
    if not texts or not all(isinstance(item, str) for item in items):
        raise _UnreadableRowError(f"{column} holds {str(value)[:80]!r}, expected a list of texts")
    return texts


def _options(row: Row, opening: str, mark: str) -> tuple[str, list[str], int]:
    """Question, options and the index of the right one, from an instruction that lists `mark1: ... mark2: ...`."""
    whole = _text(row, "instruction")
    body, found, form = whole.rpartition("Answer format: ")
    names = form.strip().split("/")
    question, begun, rest = body.partition(f"\n\n{mark}1: ")
    if not found or not begun or not question.startswith(opening):
        raise _UnreadableRowError(
            f"the instruction has another form: expected {opening!r}, the question, an empty line, "
            f"'{mark}1: ...' and 'Answer format: ...'; got {whole[:60]!r}"
        )
    options: list[str] = []
    for number in range(2, len(names) + 1):
        option, found, rest = rest.partition(f" {mark}{number}: ")
        if not found:
            raise _UnreadableRowError(
                f"the answer format lists {len(names)} answers, {mark}{number} is missing"
            )
        options.append(option.strip())
    options.append(rest.strip())
    answer = _text(row, "answer")
    if answer not in names:
        raise _UnreadableRowError(f"answer is {answer!r}, expected one of {', '.join(names)}")
    return question.removeprefix(opening).strip(), options, names.index(answer)


def _arc(row: Row) -> Row:
    question, options, right = _options(row, "Please choose the correct answer to the question: ", "Answer")
    labels = list(_LETTERS[: len(options)])
    return {
        "question": question,
        "choices": {"text": options, "label": labels},
        "answerKey": labels[right],
    }


def _winogrande(row: Row) -> Row:
    opening = "Please choose the correct answer to fill in the blank to complete the given sentence: "
    sentence, options, right = _options(row, opening, "Option")
    if "_" not in sentence or len(options) != 2:
        raise _UnreadableRowError(
            f"expected a sentence with a gap (_) and two options, got {sentence[:60]!r}"
        )
    return {
        "sentence": sentence,
        "option1": options[0],
        "option2": options[1],
        "answer": str(right + 1),
    }


def _truthfulqa(row: Row) -> Row:
    wrong = _texts(row, "incorrect_answers")
    right = _texts(row, "correct_answers")
    return {
        "question": _text(row, "question"),
        "mc1_targets": {"choices": [_text(row, "best_answer"), *wrong], "labels": [1] + [0] * len(wrong)},
        "mc2_targets": {"choices": [*right, *wrong], "labels": [1] * len(right) + [0] * len(wrong)},
    }


def _gsm8k(row: Row) -> Row:
    answer = _text(row, "answer")
    if "#### " not in answer:
        raise _UnreadableRowError("answer does not end in '#### NUMBER'")
    return {"question": _text(row, "question"), "answer": answer}


def _hellaswag(row: Row) -> Row:
    label, endings = str(row.get("label")), _texts(row, "endings")
    if not label.isdigit() or int(label) >= len(endings):
        raise _UnreadableRowError(f"label is {label!r}, expected the number of one of {len(endings)} endings")
    context = f"{_text(row, 'ctx_a')} {str(row.get('ctx_b') or '').capitalize()}"
    return {
        "query": _without_brackets(f"{_text(row, 'activity_label')}: {context}"),
        "choices": [_without_brackets(ending) for ending in endings],
        "label": label,
    }


def _without_brackets(text: str) -> str:
    """HellaSwag's texts from WikiHow carry marks in brackets, which the harness takes out in this way."""
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def _mmlu_path(folder: str) -> Path:
    path = Path(folder) / "mmlu.zip"
    if not path.exists():
        raise missing_path(path)
    return path


def _archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise DataError(
            f"{path}: not a zip archive, or damaged ({error}); copy or download it again"
        ) from error
    except OSError as error:
        raise unreadable(path, error) from error


def _mmlu_rows(path: Path, archive: zipfile.ZipFile, subject: str, split: str) -> Iterator[dict[str, Any]]:
    """Rows of one subject: question, four choices, letter of the answer, without a header line."""
    member = f"data/{split}/{subject}_{split}.csv"
    try:
        content = archive.read(member).decode("utf-8")
    except KeyError as error:
        raise DataError(f"{path}: {member} is missing; copy or download the archive again") from error
    except (zipfile.BadZipFile, zlib.error, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: {member} is damaged ({error}); copy or download the archive again"
        ) from error
    number = 0
    for number, cells in enumerate(csv.reader(io.StringIO(content, newline="")), start=1):
        if len(cells) != _MMLU_COLUMNS or cells[-1] not in _LETTERS[:4]:
            raise DataError(
                f"{path}: {member}, row {number}: expected a question, four choices and a letter from A to D; got "
                f"{len(cells)} cells that end in {(cells or [''])[-1][:20]!r}"
            )
        yield {
            "question": cells[0],
            "choices": cells[1:5],
            "answer": _LETTERS.index(cells[5]),
            "subject": subject,
        }
    if number == 0:
        raise DataError(f"{path}: {member} holds no rows; copy or download the archive again")
