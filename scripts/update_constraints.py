"""Write `constraints.txt`: the newest version of every direct and indirect dependency that the index offers.

Run by `make constraints`; run the tests before committing the result. The version of torch stays as it is:
it is raised by hand, in `constraints.txt`. Packages that torch itself pins to one version (CUDA libraries,
Triton) are left out, so that one file serves every build of torch and every Python.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
PINNED_BY_TORCH = re.compile(r"^(nvidia|cuda|triton|pytorch-triton)\b")
HEADER = """\
# Exact versions that `make setup` installs and the tests run with; the bounds in pyproject.toml are wide.
# Written by `make constraints`, but for the version of torch, which is set here by hand. The local part of a
# version (such as +cpu) is left out on purpose: it depends on the machine.
"""


def main() -> int:
    """Resolve in an empty environment, as pip would install, and write the result."""
    torch = re.findall(r"^torch==\S+$", CONSTRAINTS.read_text(encoding="utf-8"), re.MULTILINE)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        report = Path(folder) / "report.json"
        subprocess.run(
            [
                f"{folder}/bin/python",
                "-m",
                "pip",
                "install",
                "--quiet",
                "--dry-run",
                "--ignore-installed",
                "--report",
                str(report),
                f"{ROOT}[dev,bench,judge,benchmarks,quantized]",
                "hatchling",
                *torch,
            ],
            check=True,
        )
        resolved = json.loads(report.read_text(encoding="utf-8"))["install"]
    versions = {
        entry["metadata"]["name"].lower().replace("_", "-"): entry["metadata"]["version"]
        for entry in resolved
    }
    lines = [
        f"{name}=={version.split('+')[0]}\n"
        for name, version in sorted(versions.items())
        if name != "distal" and not PINNED_BY_TORCH.match(name)
    ]
    CONSTRAINTS.write_text(HEADER + "".join(lines), encoding="utf-8")
    print(f"constraints.txt: {len(lines)} versions")
    return 0


if __name__ == "__main__":
    sys.exit(main())
