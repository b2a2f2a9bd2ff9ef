#!/bin/sh
# Build the wheel, unpack it away from the source tree, and test what is in it: `sh scripts/test_wheel.sh PYTHON`.
set -eu
python=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

echo "[wheel] building"
"$python" -m pip wheel --quiet --no-deps --wheel-dir "$work/wheel" "$root"
"$python" -m pip install --quiet --no-deps --target "$work/site" "$work"/wheel/distal-*.whl
mkdir -p "$root/dist"
cp "$work"/wheel/distal-*.whl "$root/dist/"

echo "[wheel] testing it from outside the source tree"
cp "$root/pyproject.toml" "$work/"
mkdir "$work/tests"
cp "$root/tests/conftest.py" "$work/tests/"
for part in transport objectives; do cp -r "$root/tests/$part" "$work/tests/"; done
cd "$work"
export PYTHONPATH="$work/site" OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false MPLBACKEND=Agg
"$python" - "$work/site" <<'CODE'
import importlib
import importlib.metadata as metadata
import pathlib
import pkgutil
import sys

import distal

place = pathlib.Path(distal.__file__)
assert place.is_relative_to(sys.argv[1]), f"tested the source tree at {place}, not the wheel"
for name in ("py.typed", "demo/sentence-polarity.jsonl.gz", "report/page/assets/page.css", "report/page/templates/page.html"):
    assert (place.parent / name).is_file(), f"the wheel lacks {name}"
for module in pkgutil.walk_packages(distal.__path__, prefix="distal."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
names = {file.name for file in metadata.files("distal") or ()}
assert {"LICENSE", "NOTICE"} <= names, f"the wheel lacks a licence file: {sorted(names)}"
CODE
"$python" -c "from distal.cli import main; main()" --version
"$python" -m pytest -q -p no:cacheprovider tests
