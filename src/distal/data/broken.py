"""What is wrong with a file that cannot be read, in words that say where, what was found, and how to mend it."""

from __future__ import annotations

import json
import re
from pathlib import Path

from distal.data.values import describe_json_type
from distal.errors import DataError

__all__ = [
    "DEEPEST",
    "HEAD",
    "broken_json",
    "disguise",
    "first_line",
    "not_an_object",
    "not_utf8",
    "nul_bytes",
    "too_deep",
]

DEEPEST = 500
"""Levels of objects and arrays inside each other; a tree of messages as deep as any has fewer."""

HEAD = 64
"""Bytes at the beginning of a file that tell what it is."""

_SHOWN = 60
_LONG_NUMBER = re.compile(rb"\d{4301,}")
"""More digits than Python reads, lest a file keep it busy for hours."""

_WIDE = "convert it: iconv -f {name} -t UTF-8"
_SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (b"PAR1", "a Parquet file", "name it *.parquet"),
    (b"ARROW1", "an Arrow file", "give the folder that save_to_disk wrote, or write Parquet"),
    (b"\xff\xff\xff\xff", "an Arrow stream", "give the folder that save_to_disk wrote, or write Parquet"),
    (b"\x1f\x8b", "compressed by gzip", "unpack it, or name it after what is inside, as in *.jsonl.gz"),
    (b"PK\x03\x04", "a zip archive (or a spreadsheet)", "unpack it, or export the rows as CSV"),
    (b"PK\x05\x06", "an empty zip archive", "give the file with the rows"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", "unpack it: zstd -d"),
    (b"BZh91AY&SY", "compressed by bzip2", "unpack it: bunzip2"),
    (b"\xfd7zXZ\x00", "compressed by xz", "unpack it: unxz"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it"),
    (b"SQLite format 3\x00", "an SQLite database", "export the rows as CSV"),
    (b"%PDF-", "a PDF document", "give the file with the rows"),
    (b"\xd0\xcf\x11\xe0", "an old Office document", "export the rows as CSV"),
    (b"\x80\x04\x95", "a pickle, which could run code and is never loaded", "write JSON lines or Parquet"),
    (b"\x80\x05\x95", "a pickle, which could run code and is never loaded", "write JSON lines or Parquet"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself", "fetch the file: git lfs pull"),
    (b"<!doctype html", "a web page", "download the data itself; this may be a page about an error"),
    (b"<html", "a web page", "download the data itself; this may be a page about an error"),
    (b"\xff\xfe\x00\x00", "UTF-32 text", _WIDE.format(name="UTF-32")),
    (b"\x00\x00\xfe\xff", "UTF-32 text", _WIDE.format(name="UTF-32")),
    (b"\xff\xfe", "UTF-16 text, not UTF-8", _WIDE.format(name="UTF-16")),
    (b"\xfe\xff", "UTF-16 text, not UTF-8", _WIDE.format(name="UTF-16")),
)
"""First bytes of a file -> what it is, and what to do about it."""


def disguise(path: Path, head: bytes, own: tuple[bytes, ...]) -> DataError | None:
    """The error for a file that begins like another kind than its name says; None where it does not.

    Args:
        path: the file.
        head: its first bytes.
        own: beginnings that are right for files of this name.
    """
    text = head.lstrip().lower()
    for signature, what, remedy in _SIGNATURES:
        if signature in own:
            continue
        if (text if signature.startswith(b"<") else head).startswith(signature):
            ending = "".join(path.suffixes[-2:]) or "no ending"
            return DataError(f"{path}: is {what}, although its name ends in {ending}; {remedy}")
    return None


def broken_json(path: Path, raw: bytes, error: Exception, line: int | None) -> DataError:
    """The error for text that is no JSON.

    Args:
        path: the file.
        raw: the text, of one line or of the whole file.
        error: what the parser says of it.
        line: line of the file that `raw` is, from 1; None where it is the whole file.
    """
    reason, remedy, place = first_line(error), "mend or remove it", ""
    if isinstance(error, json.JSONDecodeError):
        reason = error.msg
        row, column = (error.lineno, error.colno) if line is None else (line, error.colno)
        place = f" at line {row}, column {column}"
        reason, remedy = _meaning(raw, error, reason, remedy, is_line=line is not None)
    elif isinstance(error, RecursionError):
        return too_deep(path, "the file" if line is None else f"line {line}")
    elif (long_number := _LONG_NUMBER.search(raw)) is not None:
        before = raw[: long_number.start()]
        row = before.count(b"\n") + 1 if line is None else line
        column = len(before) - before.rfind(b"\n")
        place = f" at line {row}, column {column}"
        reason, remedy = "a number of more than 4300 digits", "write it as a string, or leave it out"
    elif line is not None:
        place = f" at line {line}"
    shown = raw[:_SHOWN].decode("utf-8", errors="replace").strip()
    begins = "the line begins" if line is not None else "the file begins"
    return DataError(f"{path}: broken JSON{place}: {reason}; {begins} {shown!r}; {remedy}")


def _meaning(
    raw: bytes, error: json.JSONDecodeError, reason: str, remedy: str, *, is_line: bool
) -> tuple[str, str]:
    """What the parser met, where that is a common mistake: in words of our own, with its own remedy."""
    rest, before = error.doc[error.pos :].strip(), error.doc[: error.pos].rstrip()
    is_extra, is_open = "Extra data" in error.msg, "Unterminated string" in error.msg
    mistakes = (
        (
            b"\0" in raw,
            "NUL bytes",
            "convert UTF-16 with iconv -t UTF-8, or cut off what an interruption left empty",
        ),
        (rest.startswith("\ufeff"), "a byte-order mark", "remove it, or join files without their marks"),
        (
            is_extra and rest.startswith(","),
            "a comma behind the row",
            "leave the commas between rows out, or name an array *.json",
        ),
        (is_extra, "a second value behind the first", "put each row on a line of its own"),
        (
            "Invalid control character" in error.msg,
            f"{reason} (a tab or a line break inside a string)",
            r"write \t and \n in strings",
        ),
        (
            is_open,
            "a string that nothing closes",
            f"{remedy}; at the end of a file the rest is missing: write it again",
        ),
        (
            rest[:1] in ("}", "]") and before.endswith(",") or "trailing comma" in error.msg,
            "a comma with nothing behind it",
            "remove the last comma",
        ),
        (
            rest.startswith(("'", "None", "True", "False")),
            f"Python's notation ({rest[:8]!r})",
            "write the rows with json.dumps",
        ),
        (
            is_line and not rest and raw.strip() in (b"[", b"{"),
            "an array or object over several lines",
            "name the file *.json, or write one row per line",
        ),
        (
            not rest,
            f"{reason}, where the text ends",
            "write or download the file again: its end is missing",
        ),
    )
    return next(((what, how) for is_so, what, how in mistakes if is_so), (reason, remedy))


def too_deep(path: Path, place: str) -> DataError:
    """The error for JSON that is nested without end."""
    return DataError(
        f"{path}: {place} holds objects or arrays nested too deeply (more than {DEEPEST} levels); flatten it, or "
        f"remove the row"
    )


def not_utf8(path: Path, line: int, error: UnicodeDecodeError, raw: bytes) -> DataError:
    """The error for text in another encoding."""
    if raw.count(b"\0") * 3 > len(raw):
        return nul_bytes(path, line)
    byte = raw[error.start]
    return DataError(
        f"{path}: line {line} is not UTF-8: byte 0x{byte:02x} behind "
        f"{raw[max(0, error.start - 20) : error.start].decode('utf-8', errors='replace')!r}; convert the file, for "
        f"instance with iconv -f LATIN1 -t UTF-8 where it is Latin-1"
    )


def nul_bytes(path: Path, line: int) -> DataError:
    """The error for NUL bytes, which text in UTF-8 does not hold."""
    return DataError(
        f"{path}: line {line} holds NUL bytes, expected UTF-8 text; convert UTF-16 with iconv -f UTF-16 -t UTF-8, or "
        f"cut off what an interruption left empty"
    )


def not_an_object(path: Path, line: int, value: object) -> DataError:
    """The error for a line of JSON that is no row."""
    is_array = isinstance(value, list)
    remedy = "name an array of rows *.json" if is_array else "mend or remove the line"
    return DataError(
        f"{path}: line {line} holds {describe_json_type(value)}, expected an object with the columns; {remedy}"
    )


def first_line(error: BaseException) -> str:
    """The first line of what an exception says, or its name."""
    lines = str(getattr(error, "msg", "") or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
