"""The output folder of a run: claimed by one process, never overwritten by accident, its state on disk."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from distal.errors import ConfigError, OutputError
from distal.evaluation.files import write_atomically
from distal.evaluation.on_the_way import EVALUATIONS_FILE
from distal.training.checkpoints import STAGING, last_usable_checkpoint, promote_staged
from distal.training.health import HEALTH_FILE
from distal.training.samples import SAMPLES_FILE
from distal.workflow.lock import FolderLock
from distal.workflow.storage import is_disk_full

__all__ = ["CONFIG_FILE", "STATE_FILE", "RunFolder", "RunState", "check_same_options"]

RunState = Literal["running", "interrupted", "failed", "finished"]

logger = logging.getLogger(__name__)

STATE_FILE = "run.json"
CONFIG_FILE = "distal.yaml"
LOCK_FILE = ".distal.lock"
PARTIAL = ".partial"
_WRITE_TEST = ".write-test-"
_OWN_PATTERNS = (
    CONFIG_FILE,
    PARTIAL,
    STAGING,
    HEALTH_FILE,
    EVALUATIONS_FILE,
    SAMPLES_FILE,
    f".{STATE_FILE}.*",
    f".{CONFIG_FILE}.*",
    "checkpoint-*",
    "runs",
    STATE_FILE,  # last: without it the rest would be files of nobody
)
"""What a run may leave even if it is killed; the files of the final result are listed in the state file."""


class RunFolder:
    """One output folder, held by this process from `claim` to `release`.

    Nothing in the folder changes before `begin`, so a run that cannot start (bad data, a missing model)
    leaves everything as it was. Used as a context manager it records how the run ended.

    Args:
        path: the folder; created if it does not exist.
        main: whether this process is the one that writes; of several ranks only the first is.
    """

    def __init__(self, path: str | Path, *, main: bool = True) -> None:
        self.path = Path(path)
        self.main = main
        self._lock = FolderLock(self.path / LOCK_FILE)
        self._created = False
        self._record: dict[str, Any] = {}

    def claim(self, *, resume: bool = False, overwrite: bool = False) -> Self:
        """Locks the folder, and refuses it where it holds something that must not be touched.

        Args:
            resume: go on with the run that the folder holds.
            overwrite: replace the run that the folder holds.

        Raises:
            OutputError: the folder holds a run and neither is asked for, holds other files, cannot be written
                to, is held by another process, or holds nothing to resume.
        """
        if not self.main:
            self._record = self._read_state()
            return self
        self._create()
        try:
            self._lock.acquire()
            self._record = self._read_state()
            self._check_content(resume, overwrite)
        except BaseException:
            self.release()
            raise
        return self

    def release(self) -> None:
        """Gives the folder back; removes it if this process made it and nothing was written."""
        self._lock.release()
        if self._created and self.path.is_dir() and not any(self.path.iterdir()):
            self.path.rmdir()

    def begin(self, config: str, *, command: str | None, versions: Mapping[str, str], keep: bool) -> None:
        """Starts the run: removes what is to be overwritten, writes the resolved configuration and the state.

        Args:
            config: the resolved configuration as YAML.
            command: how the run was started.
            versions: package versions.
            keep: whether checkpoints and earlier files stay (resuming).
        """
        if not self.main:
            return
        resumed = [*self._record.get("resumed", []), _now()] if keep else []
        if keep:
            promote_staged(self.path)
        else:
            self._remove_own()
        shutil.rmtree(self.path / PARTIAL, ignore_errors=True)
        started = self._record.get("started") if keep else None
        files = self._record.get("files", []) if keep else []
        self._record = {
            "state": "running",
            "command": command,
            "process": os.getpid(),
            "started": started or _now(),
            "resumed": resumed,
            "versions": dict(versions),
            "files": files,
        }
        self.update()
        write_atomically(self.path / CONFIG_FILE, config.encode())

    def update(self, **changes: Any) -> None:
        """Writes the state file, in one piece."""
        self._record |= {**changes, "updated": _now()}
        text = json.dumps(self._record, indent=2, ensure_ascii=False) + "\n"
        write_atomically(self.path / STATE_FILE, text.encode())

    @property
    def begun(self) -> bool:
        """Whether this process has started a run here."""
        return self._record.get("state") == "running" and self._record.get("process") == os.getpid()

    @property
    def state(self) -> RunState | None:
        """State of the run that the folder holds, None where it holds none."""
        return self._record.get("state")

    @property
    def checkpoint(self) -> Path | None:
        """The last checkpoint that training can go on from, None where there is none."""
        return last_usable_checkpoint(self.path)

    @contextmanager
    def publishing(self) -> Generator[Path]:
        """A folder to write results into; at the end they move to the run folder, each file in one piece.

        A disk that fills up, or a kill, while results are being written thus leaves no half of them behind.
        """
        partial = self.path / PARTIAL
        if not self.main:
            yield partial
            return
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            yield partial
            names = sorted(entry.name for entry in partial.iterdir())
            mode = (self.path / STATE_FILE).stat().st_mode & 0o777
            self.update(files=sorted({*self._record.get("files", []), *names}))
            for name in names:
                if (partial / name).is_file():  # safetensors makes files that only their owner may read
                    (partial / name).chmod(mode)
                os.replace(partial / name, self.path / name)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self.begun and error is not None:
                interrupted = isinstance(error, KeyboardInterrupt)
                note = None if interrupted else f"{type(error).__name__}: {error}"
                self._try_update(state="interrupted" if interrupted else "failed", error=note)
        finally:
            self.release()

    def finish(self, **summary: Any) -> None:
        """Records that the run came to its end."""
        if self.main:
            self.update(state="finished", finished=_now(), **summary)

    def _try_update(self, **changes: Any) -> None:
        """Updates the state while another error is under way, which must not be hidden."""
        try:
            self.update(**changes)
        except OSError as error:
            logger.warning("The state in %s could not be updated: %s", self.path / STATE_FILE, error)

    def _create(self) -> None:
        """Makes the folder, or says why that cannot be."""
        if self.path.exists() and not self.path.is_dir():
            raise OutputError(f"output_dir {self.path} is a file; name a folder.")
        self._created = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / f"{_WRITE_TEST}{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise _unusable(self.path, error) from None

    def _read_state(self) -> dict[str, Any]:
        """The state file, or an empty record."""
        path = self.path / STATE_FILE
        if not path.exists():
            return {}
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            record = None
        return (
            record
            if isinstance(record, dict) and "state" in record
            else {"state": "failed", "error": "unreadable"}
        )

    def _check_content(self, resume: bool, overwrite: bool) -> None:
        """Refuses a folder whose content must not be touched."""
        entries = sorted(entry.name for entry in self.path.iterdir() if entry.name != LOCK_FILE)
        if not self._record:
            for name in filter(_left_by_a_killed_start, entries):
                (self.path / name).unlink(missing_ok=True)
            entries = [name for name in entries if not _left_by_a_killed_start(name)]
            if entries:
                shown = ", ".join(entries[:5]) + (", ..." if len(entries) > 5 else "")
                raise OutputError(
                    f"output folder {self.path} is not empty and holds no run of Distal (found {shown}); "
                    "nothing was touched. Name a new or empty folder with --output-dir."
                )
            if resume:
                raise OutputError(
                    f"nothing to resume: {self.path} holds no run. Check --output-dir, or start without "
                    "--resume."
                )
        elif not resume and not overwrite:
            go_on = "" if self.state == "finished" else "go on with it (--resume), "
            raise OutputError(
                f"output folder {self.path} already holds a run ({self._description()}); nothing was "
                "touched. "
                f"You can {go_on}replace it (--overwrite), or name another folder with --output-dir."
            )
        elif resume and self.state == "finished":
            raise OutputError(
                f"nothing to resume: the run in {self.path} is finished. To train again, name another folder "
                "with --output-dir or replace it (--overwrite)."
            )

    def _description(self) -> str:
        """State and time of the run in the folder."""
        # The lock is ours now, so a run that calls itself running was killed.
        state = "killed while it was running" if self.state == "running" else self.state
        return f"{state}, last change {self._record.get('updated', 'unknown')}"

    def _remove_own(self) -> None:
        """Removes what Distal wrote, and only that."""
        listed = [self.path / name for name in self._record.get("files", []) if Path(name).name == name]
        for path in (*listed, *(path for pattern in _OWN_PATTERNS for path in self.path.glob(pattern))):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def check_same_options(path: Path, differences: Iterable[str]) -> None:
    """Refuses to resume a run under other options.

    Raises:
        ConfigError: listing what differs.
    """
    lines = [f"  - {difference}" for difference in differences]
    if lines:
        raise ConfigError(
            f"cannot resume {path}: it was started with other options:\n"
            + "\n".join(lines)
            + "\nResume with "
            f"--config {path / CONFIG_FILE}, or start a new run in another folder (--output-dir)."
        )


def _left_by_a_killed_start(name: str) -> bool:
    """Whether a file is one that a process leaves which is killed before there is a state file."""
    return name.startswith((_WRITE_TEST, f".{STATE_FILE}."))


def _unusable(path: Path, error: OSError) -> OutputError:
    """Why a folder cannot be written to."""
    if is_disk_full(error):
        return OutputError(
            f"no space left on the disk of {path}; make room or name a folder on another disk."
        )
    return OutputError(
        f"cannot write to output folder {path}: {error.strerror or error}. Name a folder that you may write "
        "to (--output-dir)."
    )


def _now() -> str:
    """The time in UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
