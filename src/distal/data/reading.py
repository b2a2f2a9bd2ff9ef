"""From any source to preferences: the format is found, columns are renamed, grades are made into preferences."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, cast

from distal.data.files import Row
from distal.data.formats import COLUMNS, Format, find_format
from distal.data.formats.base import Made, attempt
from distal.data.grading import GradeOptions, every_answer, graded_preferences, median_grade
from distal.data.identity import Content
from distal.data.loading import DataLike, RawRows, open_rows
from distal.data.places import placed, read_placed
from distal.data.reasons import RowProblem
from distal.data.schemas import Conversation, Preference, as_conversation
from distal.data.values import listed, shown_name
from distal.errors import ConfigError, DataError
from distal.types import DataKind

__all__ = [
    "Item",
    "PreferenceSource",
    "ReadOptions",
    "carry_threshold",
    "open_preferences",
    "parse_map",
]

Item: TypeAlias = "Row | Preference | RowProblem"
"""What a source hands on: a row that is still to be read, or what was made of it already."""

_SNIFFED_ROWS = 1000
_LOOKED_AT = 100
_WORDS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_LABELS = ("label", "kto_tag", "is_safe", "is_response_0_safe", "is_response_1_safe")
_CHOICES = ("better_response_id", "safer_response_id", "choice")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """How rows are read.

    Attributes:
        format: name of a format; None to recognise it by the columns.
        columns: column of the format -> column of the file; a dot leads into an object, as in
            `metadata.score`.
        chat: whether plain strings become messages, which the chat template writes.
        grades: how preferences are made of graded answers; None for the default.
    """

    format: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict[str, str])
    chat: bool = False
    grades: GradeOptions | None = None


@dataclass(frozen=True, slots=True)
class PreferenceSource:
    """Preferences before any tokenizer has seen them.

    Attributes:
        name: for messages.
        form: the format of the rows.
        kind: paired or unpaired.
        columns: names of the columns that were found.
        items: yields source rows with their 0-based numbers, or what was made of them.
        read: makes preferences of an item, and of the parts that cannot be used their reasons; may raise
            `RowProblem`. Travels to other processes.
        notes: remarks about the data set as a whole.
        count: number of rows where that is known at little cost.
        rows_seen: rows of the source that the last pass of `items` has read.
        content: tells the rows of the source from any others; None for rows in memory.
        median: reads the median of all grades, where that is what answers are liked above; else None.
        ungraded: yields all graded answers, liked one and all, whatever becomes of them by their grades; None for
            other formats.
    """

    name: str
    form: Format
    kind: DataKind
    columns: tuple[str, ...]
    items: Callable[[], Iterator[tuple[int, Item]]]
    read: Callable[[Item], Iterator[Preference | RowProblem]]
    notes: tuple[str, ...] = ()
    count: Callable[[], int | None] = lambda: None
    rows_seen: Callable[[], int] = lambda: 0
    content: Content | None = None
    median: Callable[[], float | None] = lambda: None
    ungraded: Callable[[], Iterator[tuple[int, Item]]] | None = None

    def __iter__(self) -> Iterator[tuple[int, Preference | RowProblem]]:
        """Every preference, and every problem, with its source row."""
        for number, item in self.items():
            try:
                for made in self.read(item):
                    yield number, made
            except RowProblem as problem:
                yield number, problem


def open_preferences(
    data: DataLike, options: ReadOptions | None = None, *, split: str | None = None, name: str = "train"
) -> PreferenceSource:
    """Find out what `data` holds and how it becomes preferences.

    Args:
        data: whatever `distal.data.loading.open_rows` takes.
        options: format, names of columns, chat, grades.
        split: which split, where there are several.
        name: what to call rows that have no path.

    Raises:
        DataError: nothing readable is there, or it is of no known format.
        ConfigError: an option that does not fit the data.

    Examples:
        >>> source = open_preferences([{"question": "q", "response_j": "a", "response_k": "b"}])
        >>> source.form.name, [made.completions for _, made in source]
        ('stack-exchange', [('a', 'b')])
    """
    options = options or ReadOptions()
    raw = open_rows(data, split=split, name=name)
    opened = _Opened(raw, options.columns)
    first = opened.first()
    columns = opened.columns(first)
    form = find_format(columns, first[:_LOOKED_AT], raw.name, options.format)
    if options.format is not None and not form.columns & set(columns):
        raise DataError(
            f"{raw.name}: no column of the format {form.name} is there; found "
            f"{listed(columns)}, expected {form.title}; name another format, or map columns"
        )
    grades = _grade_options(form, options.grades)
    read = _Read(form.read, form.turns if options.chat else None)
    kind = cast(DataKind, form.kind if grades is None else grades.kind)
    counter = _Counter(lambda: opened.rows(form.columns))
    return PreferenceSource(
        name=raw.name,
        form=form,
        kind=kind,
        # A name may hold half a surrogate pair, which no file and no terminal takes.
        columns=tuple(str(name).encode("utf-8", "backslashreplace").decode() for name in columns),
        items=_items(counter, form, grades, raw.name),
        read=read,
        notes=(*_form_notes(form, grades), *form.notes(columns)),
        count=raw.count,
        rows_seen=lambda: counter.seen,
        content=raw.content,
        median=lambda: grades and median_grade(opened.rows(form.columns), form, grades, raw.name),
        ungraded=None if grades is None else lambda: every_answer(opened.rows(form.columns), form),
    )


def carry_threshold(source: PreferenceSource, other: PreferenceSource, options: ReadOptions) -> ReadOptions:
    """Options by which other data is liked above the same grade: evaluation data, as the training data.

    The median of all grades is that of one data set; by its own median, another would call other answers liked. A
    number that the user gave, thresholds by prompt, and data without grades stay what they are.

    Args:
        source: the data whose median counts; its grades are read for it.
        other: the other data, opened with `options`.
        options: how both are read.

    Examples:
        >>> rows = [{"prompt": "p", "response": str(i), "score": i} for i in range(5)]
        >>> train, held_out = open_preferences(rows), open_preferences(rows[3:])
        >>> carry_threshold(train, held_out, ReadOptions()).grades.threshold
        2.0
    """
    median = source.median() if other.form.kind == "graded" else None
    if median is None:
        return options
    grades = options.grades or GradeOptions()
    return replace(options, grades=replace(grades, threshold=median, threshold_from=source.name))


def _items(
    rows: _Counter, form: Format, grades: GradeOptions | None, name: str
) -> Callable[[], Iterator[tuple[int, Item]]]:
    """Opens the rows, or what is made of their grades."""
    if grades is None:
        gather = form.gather
        return (lambda: enumerate(rows())) if gather is None else (lambda: gather(enumerate(rows())))
    return lambda: graded_preferences(rows, form, grades, name)


class _Counter:
    """Opens rows, and counts those of the last pass."""

    def __init__(self, rows: Callable[[], Iterator[Row]]) -> None:
        self._rows = rows
        self.seen = 0

    def __call__(self) -> Iterator[Row]:
        self.seen = 0
        for row in self._rows():
            self.seen += 1
            yield row


def parse_map(words: Sequence[str]) -> dict[str, str]:
    """Read `prompt=question chosen=good`, in one string or several, with blanks or commas between.

    Raises:
        ConfigError: a part that is no `name=column`, or a name given twice.

    Examples:
        >>> parse_map(["prompt=question chosen=good", "rejected=bad"])
        {'prompt': 'question', 'chosen': 'good', 'rejected': 'bad'}
    """
    columns: dict[str, str] = {}
    for part in itertools.chain.from_iterable(re.split(r"[,\s]+", word.strip()) for word in words):
        target, equals, source = part.partition("=")
        if not (target and equals and source):
            raise ConfigError(f"map: {part!r} is not of the form name=column, as in prompt=question")
        if target in columns:
            raise ConfigError(f"map: {target} is given twice; keep one")
        columns[target] = source
    return columns


def _grade_options(form: Format, grades: GradeOptions | None) -> GradeOptions | None:
    if form.kind == "graded":
        return grades or GradeOptions()
    if grades is not None:
        raise ConfigError(
            f"options about grades have no effect on the format {form.name}, which is {form.kind}; leave them out, "
            f"or name a graded format"
        )
    return None


def _form_notes(form: Format, grades: GradeOptions | None) -> tuple[str, ...]:
    origin = f" ({form.origin})" if str(form.origin) else ""
    notes = [f"format {form.name}: {form.title}{origin}"]
    if grades is not None:
        weights = form.grades if grades.grades is None else grades.grades
        total = " + ".join(name if weight == 1 else f"{weight:g} {name}" for name, weight in weights.items())
        whose = f", the median of {grades.threshold_from}" if grades.threshold_from else ""
        how = (
            f"above and below {grades.threshold}{whose}"
            if grades.kind == "unpaired"
            else f"margin {grades.margin:g}"
        )
        notes.append(f"preferences by {grades.method} of {total}, {how}")
    return tuple(notes)


@dataclass(frozen=True, slots=True)
class _Opened:
    """Rows with their columns renamed; opened anew for every pass."""

    raw: RawRows
    names: Mapping[str, str]

    def first(self) -> list[Row]:
        """Rows by which the format is recognised."""
        first = list(itertools.islice(self._written(COLUMNS), _SNIFFED_ROWS))
        if not first:
            raise DataError(
                f"{self.raw.name}: holds no rows, expected at least one; see whether it was written to its end"
            )
        for source in self.names.values():
            if all(_inside(row, source) is _ABSENT for row in first):
                found = self._found(first)
                raise DataError(
                    f"{self.raw.name}: map names the column {shown_name(source)}, which is not there; found "
                    f"{listed(found)}; correct the name in map"
                )
        return list(map(self._read, first))

    def columns(self, first: Sequence[Row]) -> tuple[str, ...]:
        """All columns, renamed."""
        found = self._found(first)
        top = {source.partition(".")[0] for source in self.names.values()}
        return tuple(dict.fromkeys([*(c for c in found if c not in top - set(self.names)), *self.names]))

    def rows(self, columns: Collection[str]) -> Iterator[Row]:
        """The rows, of tables with the wanted columns only."""
        rows = self._written(columns)
        return map(self._read, rows) if self.names or self.raw.only_strings else rows

    def _found(self, first: Sequence[Row]) -> tuple[str, ...]:
        return self.raw.columns or tuple(dict.fromkeys(column for row in first for column in row))

    def _written(self, columns: Collection[str]) -> Iterator[Row]:
        """The rows as they are written."""
        sources = self.names.values()
        return self.raw.read({*columns, *sources, *(source.partition(".")[0] for source in sources)})

    def _read(self, row: Row) -> Row:
        """A row with its columns renamed and its labels read."""
        if self.names:
            found = {target: _inside(row, source) for target, source in self.names.items()}
            gone = set(self.names.values()) - set(self.names)
            kept = {column: value for column, value in row.items() if column not in gone}
            new = {target: value for target, value in found.items() if value is not _ABSENT}
            row = placed(kept | new, row)
        return _typed(row) if self.raw.only_strings else row


_ABSENT = object()


def _inside(row: Row, path: str) -> Any:
    """The value in a column, or inside the objects that a dotted path leads through."""
    if path in row:
        return row[path]
    value: Any = row
    for part in path.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return _ABSENT
        value = value[part]
    return value


def _typed(row: Row) -> Row:
    """Labels of a table of strings; grades are read as numbers anyway."""
    words = {name: row[name].strip().lower() for name in _LABELS if isinstance(row.get(name), str)}
    typed: dict[str, Any] = {name: _WORDS[word] for name, word in words.items() if word in _WORDS}
    typed |= {name: int(row[name]) for name in _CHOICES if row.get(name) in ("0", "1")}
    return placed({**row, **typed}, row) if typed else row


@dataclass(frozen=True, slots=True)
class _Read:
    """Makes preferences of items; a class, so that it travels to other processes."""

    read: Callable[[Row], Iterator[Made]]
    turns: Callable[[str], Conversation] | None

    def __call__(self, item: Item) -> Iterator[Preference | RowProblem]:
        is_made = isinstance(item, (Preference, RowProblem))
        made: Iterator[Any] = iter([item]) if is_made else read_placed(self.read, item)
        for one in made:
            if isinstance(one, Preference) and self.turns is not None:
                one = attempt(_Chat(one, self.turns))
            assert isinstance(one, (Preference, RowProblem)), (
                "graded answers are made into preferences before"
            )
            yield one


@dataclass(frozen=True, slots=True)
class _Chat:
    """A preference about to become a conversation."""

    row: Preference
    turns: Callable[[str], Conversation]

    def __call__(self) -> Preference:
        return as_conversation(self.row, self.turns)
