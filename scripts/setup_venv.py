"""Create or repair the virtual environment that the make targets run in.

Called by the Makefile; needs nothing but the standard library. The steps are: create the environment, install
torch on its own (so that no later step can replace the build chosen for this machine), then install Distal in
editable mode with the versions of `constraints.txt`. What was done is recorded inside the environment: a
second call with nothing changed returns at once, and a call after an interruption starts afresh.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TypedDict

MINIMUM_PYTHON = (3, 11)
ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
SOURCES = (ROOT / "pyproject.toml", CONSTRAINTS, Path(__file__).resolve())


class SetupError(Exception):
    """The environment cannot be set up; the message says how to mend it."""


def say(message: str) -> None:
    """Print one progress line at once, so that it precedes the output of pip."""
    print(f"[setup] {message}", flush=True)


class Record(TypedDict):
    """What the last successful set-up put into an environment."""

    root: str
    digest: str
    torch: str
    torch_index: str
    extras: list[str]


class Environment:
    """A virtual environment on disk, with the record of what was put into it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        self._record = folder / "distal-setup.json"
        self._busy = folder / "distal-setup.busy"

    def record(self) -> Record:
        """What the last successful set-up wrote, or an empty record."""
        record = Record(root="", digest="", torch="", torch_index="", extras=[])
        with contextlib.suppress(OSError, ValueError):
            record.update(json.loads(self._record.read_text(encoding="utf-8")))
        return record

    def write_record(self, record: Record) -> None:
        """Replace the record in one step, so that it is never half written."""
        temporary = self._record.with_suffix(".tmp")
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        temporary.replace(self._record)

    @contextlib.contextmanager
    def busy(self) -> Generator[None]:
        """Mark the environment as half done; the mark stays if the process is killed in between."""
        self._busy.touch()
        try:
            yield
        except Exception:  # pip failed in an orderly way and rolled back; only a kill leaves rubbish behind
            self._busy.unlink(missing_ok=True)
            raise
        self._busy.unlink()

    def why_unusable(self) -> str:
        """Why the folder has to be created anew; empty if it is a working environment for this checkout."""
        if self._busy.exists():
            return "an earlier set-up was interrupted"
        if not self.python.exists() or not (self.folder / "pyvenv.cfg").exists():
            return "it has no working Python"
        check = f"import sys, pip; sys.exit(sys.version_info < {MINIMUM_PYTHON})"
        if subprocess.run([self.python, "-c", check], capture_output=True, check=False).returncode:
            return "its Python is broken, has no pip, or is too old"
        if self.record()["root"] not in ("", str(ROOT)):
            return "it belongs to a checkout at another place"
        return ""

    def create(self) -> None:
        """Make the environment, removing a broken one first."""
        if self.folder.exists() and any(self.folder.iterdir()):
            reason = self.why_unusable()
            if not reason:
                return
            if not (self._busy.exists() or (self.folder / "pyvenv.cfg").exists()):
                raise SetupError(
                    f"{self.folder} exists and is no virtual environment; move it away, or choose "
                    "another place: make setup VENV=FOLDER"
                )
            say(f"removing {self.folder}: {reason}")
            shutil.rmtree(self.folder)
        say(f"creating {self.folder} with Python {sys.version.split()[0]} ({sys.executable})")
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.busy():
            result = subprocess.run(
                [sys.executable, "-m", "venv", str(self.folder)], capture_output=True, text=True, check=False
            )
            if result.returncode:
                shutil.rmtree(self.folder, ignore_errors=True)
                self.folder.mkdir(parents=True, exist_ok=True)
                raise SetupError(
                    f"Python's venv module failed:\n{result.stdout}{result.stderr}\n"
                    "On Debian and Ubuntu it is a package of its own: apt install python3-venv"
                )

    def pip(self, *arguments: str, constraints: Path, keep_errors: bool = False) -> None:
        """Run `pip install`; with `keep_errors`, what it complains of goes into the exception alone."""
        quiet = () if sys.stdout.isatty() else ("--quiet",)
        # As a variable, the constraints also hold for the isolated environment that builds Distal itself.
        environment = {**os.environ, "PIP_CONSTRAINT": str(constraints), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        command = [
            str(self.python),
            "-m",
            "pip",
            "install",
            "--no-input",
            "--prefer-binary",
            *quiet,
            *arguments,
        ]
        with self.busy():
            result = subprocess.run(
                command,
                cwd=ROOT,
                env=environment,
                text=True,
                check=False,
                stderr=subprocess.PIPE if keep_errors else None,
            )
            if result.returncode:
                raise SetupError(
                    result.stderr
                    or f"pip failed (see above). Mend the cause and repeat the command;"
                    f" it was: {' '.join(command)}"
                )

    def torch_version(self) -> str:
        """Installed version of torch with its build, such as `2.13.0+cpu`."""
        code = "from importlib.metadata import version; print(version('torch'))"
        return subprocess.run(
            [self.python, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()


def has_gpu() -> bool:
    """Whether an NVIDIA device is visible."""
    if Path("/dev/nvidia0").exists():
        return True
    tool = shutil.which("nvidia-smi")
    return bool(tool) and b"GPU" in subprocess.run([tool, "-L"], capture_output=True, check=False).stdout


def torch_requirements(request: str) -> list[str]:
    """Builds to try, best first: the one asked for; else the CPU build where there is no GPU; else any."""
    if request:
        return [request if request.startswith("torch") else f"torch=={request}"]
    pinned = re.search(r"^torch==(\S+)$", CONSTRAINTS.read_text(encoding="utf-8"), re.MULTILINE)
    if not pinned:
        raise SetupError(f"{CONSTRAINTS} names no version of torch; restore the file")
    plain = f"torch=={pinned[1]}"
    return [f"{plain}+cpu", plain] if sys.platform == "linux" and not has_gpu() else [plain]


def install_torch(environment: Environment, request: str, index: str) -> Path:
    """Install torch and return the constraints file, inside the environment, that holds later steps to it."""
    constraints = environment.folder / "distal-constraints.txt"
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines(keepends=True)
    others = "".join(line for line in lines if not line.startswith("torch=="))
    constraints.write_text(others, encoding="utf-8")
    candidates = torch_requirements(request)
    where = ("--extra-index-url", index) if index else ()
    for candidate in candidates:
        say(f"installing {candidate} (the largest download of all)")
        try:
            environment.pip(
                candidate, *where, constraints=constraints, keep_errors=candidate != candidates[-1]
            )
            break
        except SetupError:
            if candidate == candidates[-1]:
                raise
            say("the package index offers no CPU-only build; taking the general one, which is much larger")
    constraints.write_text(f"{others}torch=={environment.torch_version()}\n", encoding="utf-8")
    return constraints


def set_up(folder: Path, extras: Sequence[str], torch: str, index: str) -> None:
    """Bring the environment up to date; torch stays as it is unless the request for it changed."""
    environment = Environment(folder)
    environment.create()
    old = environment.record()
    new = Record(
        root=str(ROOT),
        digest=hashlib.sha256(b"".join(source.read_bytes() for source in SOURCES)).hexdigest(),
        torch=torch or old["torch"],
        torch_index=index or old["torch_index"],
        extras=sorted({*old["extras"], *extras}),
    )
    if old == new:
        return
    constraints = install_torch(environment, new["torch"], new["torch_index"])
    wanted = ",".join(new["extras"])
    target = f".[{wanted}]" if wanted else "."
    say(f"installing Distal from {ROOT} and what it needs{' for ' + wanted if wanted else ''}")
    environment.pip("--editable", target, constraints=constraints)
    environment.write_record(new)
    say(f"{folder} is ready (torch {environment.torch_version()})")


@contextlib.contextmanager
def only_one(folder: Path) -> Generator[None]:
    """Let a second set-up of the same folder wait for the first."""
    try:
        import fcntl
    except ImportError:  # not on Windows, where there is nothing as simple
        yield
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(folder.name + ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another set-up of the same environment to end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> int:
    """Read the command line and set up; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="folder of the environment")
    parser.add_argument("--extras", default="", help="extras of Distal to install, separated by commas")
    parser.add_argument("--torch", default="", help="version or requirement of torch, such as 2.11.0")
    parser.add_argument("--torch-index", default="", help="address of a further package index for torch")
    options = parser.parse_args()
    if sys.version_info < MINIMUM_PYTHON:
        sys.stderr.write(
            f"[setup] Distal needs Python 3.11 or newer; {sys.executable} is {sys.version.split()[0]}. "
            "Name another one: make setup PYTHON=/path/to/python3.11\n"
        )
        return 2
    folder = options.venv if options.venv.is_absolute() else ROOT / options.venv
    try:
        with only_one(folder):
            set_up(
                folder,
                [extra for extra in options.extras.split(",") if extra],
                options.torch,
                options.torch_index,
            )
    except SetupError as error:
        sys.stderr.write(f"[setup] {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("[setup] interrupted; repeat the command to start afresh\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
