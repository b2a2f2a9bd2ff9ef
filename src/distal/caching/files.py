"""Writing files so that a reader never meets half of one, whatever happens in between."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from distal.errors import DistalError, OutputError

__all__ = ["check_writable", "is_temporary_of", "replacing", "write_atomically"]


@contextmanager
def replacing(path: str | Path) -> Generator[Path]:
    """A new file beside `path` that takes its place when the block ends without an error.

    Its bytes are on the disk before its name is, so that a machine that stops leaves the old file or the new one.

    Args:
        path: file to write; its parent folders are made.

    Yields:
        The path to write to; the file exists, and is gone afterwards whatever happens.

    Raises:
        OutputError: the folder cannot be written to, or its disk is full.
    """
    target = Path(path)
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        # mkstemp makes private files; results are to be as readable as any other file of the user's.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
        _sync_folder(target.parent)
        temporary = None
    except DistalError:
        raise
    except OSError as error:
        raise _refusal(target, error) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()


def write_atomically(path: str | Path, content: bytes) -> Path:
    """Write a file under a temporary name beside its target, then rename it; what was there stays until then.

    Args:
        path: file to write; its parent folders are made.
        content: the whole file.

    Returns:
        The path written.

    Raises:
        OutputError: the folder cannot be written to, or its disk is full.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_atomically(f"{folder}/a/b.txt", b"text").read_bytes()
        b'text'
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return Path(path)


def check_writable(path: str | Path) -> None:
    """Find out before long work whether a file could be written; its parent folders are made, and nothing else.

    Raises:
        OutputError: the folder cannot be written to, or its disk is full.
    """
    parent = Path(path).parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise _refusal(Path(path), error) from error


def is_temporary_of(name: str) -> str | None:
    """The name of the file that a temporary file of `replacing` was to become, or None for another file.

    Examples:
        >>> is_temporary_of(".manifest.json.a_8k2xyz"), is_temporary_of("manifest.json")
        ('manifest.json', None)
    """
    stem, dot, suffix = name.rpartition(".")
    if not (dot and stem.startswith(".") and len(suffix) == 8):
        return None
    return stem[1:] or None


def _refusal(target: Path, error: OSError) -> OutputError:
    return OutputError(
        f"cannot write {target}: {error.strerror or error}; choose a folder that is writable and not full"
    )


def _umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Makes a rename last; where a folder cannot be opened (Windows), that is the system's own affair."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
