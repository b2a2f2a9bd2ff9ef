"""Writing result files so that a reader never meets half of one."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from distal.errors import OutputError

__all__ = ["write_atomically"]


def write_atomically(path: str | Path, content: bytes) -> Path:
    """Write a file under a temporary name beside its target, then rename it; what was there stays until then.

    Args:
        path: file to write; its parent folders are made.
        content: the whole file.

    Returns:
        The path written.

    Raises:
        OutputError: the folder cannot be written to, or its disk is full.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_atomically(f"{folder}/a/b.txt", b"text").read_bytes()
        b'text'
    """
    target = Path(path)
    temporary: str | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp makes private files; results are to be as readable as any other file of the user's.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise OutputError(
            f"cannot write {target}: {error.strerror or error}; choose a folder that is writable and not full"
        ) from error
    return target


def _umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
