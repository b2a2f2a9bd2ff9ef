"""What tokenised rows depend on, as digests: the rows, the tokenizer, the template, and our own code."""

from __future__ import annotations

import datetime
import hashlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase

__all__ = ["Content", "content_of_dataset", "content_of_file", "rows_key", "tokenizer_digest"]

_PIECE = 2**20
_PATHS = ("name_or_path", "_file", "files", "_path", "cache_dir")
"""Endings of a tokenizer's settings that say where it came from, not what it does."""


@dataclass(frozen=True, slots=True)
class Content:
    """Tells the rows of a source from any others.

    Attributes:
        digest: SHA-256 of the content, 64 hexadecimal digits.
        stamp: something that changes when the source is written to, at no cost.
    """

    digest: Callable[[], str]
    stamp: Callable[[], object] = lambda: None


def content_of_file(path: Path) -> Content:
    """The content of a file is its bytes."""

    def digest() -> str:
        return file_digest(path)

    def stamp() -> object:
        found = path.stat()
        return found.st_size, found.st_mtime_ns, found.st_ino

    return Content(digest, stamp)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, read piece by piece."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            found.update(piece)
    return found.hexdigest()


def content_of_dataset(dataset: datasets.Dataset) -> Content:
    """The content of a data set of the `datasets` library is its rows, whatever files they lie in."""

    def digest() -> str:
        import pyarrow as pa

        hashing, step = _Hashing(), 1000
        table: Any = dataset.with_format("arrow")
        with pa.ipc.new_stream(pa.PythonFile(hashing, "w"), table[:0].schema) as writer:
            for start in range(0, len(dataset), step):
                writer.write_table(table[start : start + step].combine_chunks())
        return hashing.found.hexdigest()

    return Content(digest)


class _Hashing(io.RawIOBase):
    """A file that is hashed instead of kept."""

    def __init__(self) -> None:
        self.found = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, piece: Any, /) -> int:
        self.found.update(piece)
        return len(piece)


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """SHA-256 of all that a tokenizer and its chat template make of a text.

    Returns:
        64 hexadecimal digits; None for a tokenizer whose code is not that of transformers, or whose vocabulary lies
        in no file: nothing is known of those.
    """
    kind = type(tokenizer)
    core = _core(tokenizer)
    if core is None or not kind.__module__.startswith("transformers."):
        return None
    settings: Mapping[str, Any] = getattr(tokenizer, "init_kwargs", {})
    parts = {
        "class": f"{kind.__module__}.{kind.__qualname__}",
        "core": core,
        "settings": {
            str(name): repr(value) for name, value in settings.items() if not str(name).endswith(_PATHS)
        },
        "special": {str(name): str(token) for name, token in tokenizer.special_tokens_map.items()},
        # Of a slow tokenizer, the files know nothing of tokens that were added later.
        "added": {str(number): repr(token) for number, token in tokenizer.added_tokens_decoder.items()},
        "split_special_tokens": bool(tokenizer.split_special_tokens),
        "ids": [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id],
        "template": tokenizer.chat_template,
    }
    if "strftime_now" in str(tokenizer.chat_template):
        parts["date"] = datetime.date.today().isoformat()  # such a template writes it into every row
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _core(tokenizer: Any) -> str | None:
    """What turns text into tokens: the fast tokenizer as JSON, or digests of the files of a slow one."""
    if tokenizer.is_fast:
        return tokenizer.backend_tokenizer.to_str()
    names = [getattr(tokenizer, name, None) for name in getattr(tokenizer, "vocab_files_names", {})]
    files = [Path(name) for name in names if isinstance(name, str)]
    if not files or not all(path.is_file() for path in files):
        return None
    return json.dumps([file_digest(path) for path in files])


@cache
def _code() -> str:
    """Our own code that makes rows of text, and the versions of the libraries that it calls."""
    found = hashlib.sha256()
    folder = Path(__file__).parent
    for path in sorted(folder.rglob("*.py")):
        found.update(f"{path.relative_to(folder).as_posix()}:{file_digest(path)}\n".encode())
    for name in ("transformers", "tokenizers", "jinja2"):
        found.update(f"{name}:{version(name)}\n".encode())
    return found.hexdigest()


def rows_key(content: str, tokenizer: str, options: Mapping[str, object]) -> str:
    """Name of tokenised rows: a digest of all that they depend on.

    Args:
        content: digest of the source's rows.
        tokenizer: digest of the tokenizer.
        options: how rows are read, rendered and cut.
    """
    parts = {
        "content": content,
        "tokenizer": tokenizer,
        "code": _code(),
        "options": {name: repr(value) for name, value in options.items()},
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
