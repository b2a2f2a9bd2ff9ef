"""AlpacaEval's `model_outputs` files: a JSON list of objects with instruction, output, generator and dataset."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from distal.data.files import missing_path, reader_for
from distal.data.values import describe_json_type
from distal.errors import DataError
from distal.evaluation.files import write_atomically

__all__ = ["ModelOutput", "ModelOutputs", "json_bytes", "read_outputs", "settings_path", "write_outputs"]


@dataclass(frozen=True, slots=True)
class ModelOutput:
    """One answer of a model.

    Attributes:
        instruction: the prompt.
        output: the answer; may be empty.
        generator: name of the model.
        dataset: where the prompt comes from.
    """

    instruction: str
    output: str
    generator: str
    dataset: str


_COLUMNS = tuple(field.name for field in fields(ModelOutput))


@dataclass(frozen=True, slots=True)
class ModelOutputs:
    """The answers of one model.

    Attributes:
        name: of the file, for messages.
        generator: name of the model.
        rows: its answers, each to another prompt.
    """

    name: str
    generator: str
    rows: tuple[ModelOutput, ...]


def read_outputs(path: str | Path) -> ModelOutputs:
    """Read the answers of a model, from JSON, JSON lines or CSV.

    Raises:
        DataError: the file cannot be read, a row lacks instruction or output, a prompt occurs twice, or the answers
            are of several models.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise missing_path(file)
    rows = [_row(row, number, file) for number, row in enumerate(reader_for(file)(file, _COLUMNS))]
    if not rows:
        raise DataError(f"{file}: holds no answers; expected a list of objects with instruction and output")
    repeated = [text for text, count in Counter(row.instruction for row in rows).items() if count > 1]
    if repeated:
        raise DataError(
            f"{file}: {len(repeated)} prompts occur more than once, such as {repeated[0][:60]!r}; keep one of each"
        )
    generators = sorted({row.generator for row in rows})
    if len(generators) > 1:
        raise DataError(
            f"{file}: the answers are of several models ({', '.join(generators[:5])}); give one file each"
        )
    return ModelOutputs(file.name, generators[0], tuple(rows))


def write_outputs(path: str | Path, rows: Iterable[ModelOutput]) -> Path:
    """Write answers as a JSON list, in one piece.

    Raises:
        OutputError: the file cannot be written.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "outputs.json"
        >>> read_outputs(write_outputs(path, [ModelOutput("Hi", "Hello", "m", "d")])).rows[0].output
        'Hello'
    """
    return write_atomically(path, json_bytes([asdict(row) for row in rows]))


def settings_path(path: str | Path) -> Path:
    """The file beside a file of answers that says how they were drawn.

    Examples:
        >>> settings_path("run/outputs.json").name
        'outputs.settings.json'
    """
    file = Path(path)
    return file.with_name(f"{file.stem}.settings.json")


def json_bytes(content: Any) -> bytes:
    """JSON for people; what is no Unicode text (half a surrogate pair) stays an escape."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode("ascii")


def _row(row: Mapping[str, Any], number: int, file: Path) -> ModelOutput:
    for column in ("instruction", "output"):
        if not isinstance(row.get(column), str):
            shown = describe_json_type(row[column]) if column in row else "absent"
            raise DataError(
                f"{file}: row {number}: {column} is {shown}, expected a string; rows need instruction and output, "
                "as `distal evaluate generate` writes them"
            )
    generator, dataset = row.get("generator"), row.get("dataset")
    return ModelOutput(
        row["instruction"],
        row["output"],
        generator if isinstance(generator, str) and generator else file.stem,
        dataset if isinstance(dataset, str) else "",
    )
