"""`distal cache`: what is listed, what is found, and that nothing goes which is not Distal's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import Result

from distal.caching import ScoreCache, ScoreEntry
from distal.data.row_cache import RowCache
from distal.data.store import RowBatch, RowWriter

Run = Callable[..., Result]
DAY = 86400


def fill(folder: Path, rows: str, shards: int, *, model: str = "tiny") -> ScoreEntry:
    """An entry of three shards of two rows, of which so many are there."""
    entry = ScoreCache(folder).entry(
        {"weights": "w", "rows": rows}, bounds=[0, 2, 4, 6], about={"model": model, "data": "film.jsonl"}
    )
    entry.prepare()
    for number in range(shards):
        entry.save(number, np.array([-number, -0.5], dtype=np.float32))
    entry.close()
    return entry


def make_old(entry: ScoreEntry, days: float) -> None:
    for path in entry.folder.iterdir():
        before = path.stat().st_mtime - days * DAY
        os.utime(path, (before, before))


def damage(path: Path) -> Path:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A cache with a complete, a partial and a damaged entry, one of the first version, and files of the user's."""
    cache = tmp_path / "cache"
    fill(cache, "complete", 3)
    make_old(fill(cache, "partial", 2), 40)
    damage(sorted(fill(cache, "damaged", 3).folder.glob("00001-*"))[0])
    (cache / "scores" / f"{'ab' * 32}.safetensors").write_bytes(b"scores of the first version")
    (cache / "scores" / "notes.txt").write_text("mine")
    (cache / "scores" / "folder").mkdir()
    (cache / "scores" / "folder" / "manifest.json").write_text("mine too")
    (cache / "letters.txt").write_text("and mine")
    return cache


def contents(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


USERS = {"scores/notes.txt", "scores/folder/manifest.json", "letters.txt"}


def names(folder: Path, rows: str) -> str:
    """Folder of an entry, within the cache."""
    return str(
        ScoreCache(folder).entry({"weights": "w", "rows": rows}, bounds=[0]).folder.relative_to(folder)
    )


def test_listing(distal: Run, folder: Path) -> None:
    listed = json.loads(distal("cache", "ls", "--json").stdout)
    assert listed["schema"] == "distal.cache_list/1"
    states = [entry["state"] for entry in listed["entries"]]
    assert sorted(states) == ["complete", "complete", "obsolete", "partial"], "damage is not looked for"
    partial = listed["entries"][-1]
    assert partial["state"] == "partial", "the one used last comes last"
    assert (partial["rows"], partial["rows_wanted"], partial["about"]["model"]) == (4, 6, "tiny")
    assert partial["bytes"] == sum(path.stat().st_size for path in Path(partial["path"]).iterdir())
    shown = distal("cache", "ls").stdout
    for word in ("4 of 6", "40 days ago", "film.jsonl", "obsolete", "4 entries, ", str(folder)):
        assert word in shown


def test_an_empty_cache(distal: Run, tmp_path: Path) -> None:
    for verb in ("ls", "verify", "prune"):
        result = distal("cache", verb)
        assert result.exit_code == 0, result.output
        assert str(tmp_path / "cache") in result.stdout
    assert not (tmp_path / "cache").exists()


def test_a_name_cannot_command_the_terminal(distal: Run, tmp_path: Path) -> None:
    fill(tmp_path / "cache", "r", 1, model="\x1b[2J[bold]x")
    assert "?[2J[bold]x" in distal("cache", "ls").stdout


def test_damage_is_named_and_fails(distal: Run, folder: Path) -> None:
    result = distal("cache", "verify")
    assert result.exit_code == 7
    assert "(rows 2 to 3): its bytes do not have the checksum in its name" in result.stdout
    found = json.loads(distal("cache", "verify", "--json").stdout)
    (path,) = [damaged["path"] for damaged in found["damaged"]]
    assert path.startswith(str(folder / names(folder, "damaged")))
    assert distal("cache", "prune", "--damaged", "--yes").exit_code == 0
    assert not Path(path).exists()
    assert distal("cache", "verify").exit_code == 0


@pytest.mark.parametrize(
    ("words", "gone"),
    [
        ([], set()),
        (["--partial"], {"partial"}),
        (["--older-than=30d"], {"partial"}),
        (["--older-than=50d"], set()),
        (["--partial", "--older-than=50d"], set()),
        (["--damaged"], {"one shard"}),
        (["--damaged", "--older-than=1h"], set()),
        (["--all"], {"complete", "partial", "damaged"}),
        (["--all", "--older-than=1d"], {"partial"}),
    ],
)
def test_what_is_pruned(distal: Run, folder: Path, words: list[str], gone: set[str]) -> None:
    before = contents(folder)
    dry = json.loads(distal("cache", "prune", *words, "--dry-run", "--json").stdout)
    assert contents(folder) == before, "a dry run touches nothing"
    done = json.loads(distal("cache", "prune", *words, "--yes", "--json").stdout)
    assert {**done, "dry_run": True} == dry, "and says what happens"
    after = contents(folder)
    assert after >= USERS
    obsolete = f"scores/{'ab' * 32}.safetensors"
    by_age = [word for word in words if word.startswith("--older-than")]
    assert (obsolete in after) == bool(by_age), "it is new"
    expected = {path for path in before for rows in gone if path.startswith(names(folder, rows))}
    if "one shard" in gone:
        expected = {str(Path(damaged["path"]).relative_to(folder)) for damaged in done["files"]}
        assert len(expected) == 1
    assert before - after == expected | (set() if by_age else {obsolete})
    assert done["bytes"] > 0 or before == after


def test_half_files_of_killed_processes_go(distal: Run, tmp_path: Path) -> None:
    place = fill(tmp_path / "cache", "r", 3).folder
    shard = sorted(place.glob("0*"))[0].name
    half = [place / f".{shard}.abcd1234", place / ".manifest.json.abcd_234"]
    for path in [*half, place / ".mine.abcd1234"]:
        path.write_bytes(b"half")
    assert distal("cache", "verify").exit_code == 0, "nothing reads them"
    done = json.loads(distal("cache", "prune", "--yes", "--json").stdout)
    assert {removed["path"] for removed in done["files"]} == set(map(str, half))
    assert sorted(path.name for path in place.iterdir() if path.name.startswith(".")) == [".mine.abcd1234"]
    assert len(list(place.glob("0*"))) == 3


def test_without_an_answer_nothing_goes(distal: Run, folder: Path) -> None:
    before = contents(folder)
    for words in ([], ["--json"]):
        result = distal("cache", "prune", "--all", *words)
        assert result.exit_code == 2
        assert "--yes" in result.stderr
    assert contents(folder) == before


@pytest.mark.parametrize("kind", ["entry", "shard", "subfolder"])
def test_links_are_not_followed(distal: Run, tmp_path: Path, kind: str) -> None:
    cache, outside = tmp_path / "cache", tmp_path / "outside"
    place = fill(outside, "r", 3).folder
    kept = contents(outside)
    if kind == "subfolder":
        cache.mkdir()
        (cache / "scores").symlink_to(outside / "scores")
    elif kind == "entry":
        (cache / "scores").mkdir(parents=True)
        (cache / "scores" / place.name).symlink_to(place)
    else:
        own = fill(cache, "r", 3).folder
        for path in own.glob("0*"):
            path.unlink()
            path.symlink_to(place / path.name)
    result = distal("cache", "prune", "--all", "--yes")
    assert result.exit_code == 0, result.output
    assert contents(outside) == kept
    assert ("not Distal's" in result.stdout) == (kind == "shard")


def test_tokenised_rows_are_entries_too(distal: Run, tmp_path: Path) -> None:
    def make(path: Path) -> dict[str, Any]:
        batch = RowBatch()
        batch.add([1], [2], ("a", "b"), desirable=True, source_row=0)
        with RowWriter(path) as writer:
            writer.append(batch.to_arrow())
            writer.close()
        return {"n_kept": 1, "kind": "unpaired", "name": "film.jsonl"}

    place = RowCache(tmp_path / "cache").path("cd" * 32)
    RowCache(tmp_path / "cache").fetch(place.name, make)
    half = place.with_name(f".writing-{place.name}-1234-0123abcd")
    half.mkdir()
    (half / "rows.arrow").write_bytes(b"half")
    listed = json.loads(distal("cache", "ls", "--json").stdout)["entries"]
    assert {entry["path"]: (entry["state"], entry["rows"]) for entry in listed} == {
        str(place): ("complete", 1),
        str(half): ("partial", None),
    }
    assert distal("cache", "verify").exit_code == 0
    assert distal("cache", "prune", "--partial", "--yes").exit_code == 0
    assert not half.exists()
    for name in ("rows.arrow", "about.json"):
        RowCache(tmp_path / "cache").fetch(place.name, make)
        damage(place / name) if name == "rows.arrow" else (place / name).write_text("{}")
        result = distal("cache", "verify")
        assert result.exit_code == 7
        assert str(place / name) in result.stdout
        assert distal("cache", "prune", "--damaged", "--yes").exit_code == 0
        assert not place.exists()


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Any]:
    """Another process with an entry open."""
    code = (
        "import sys\nfrom distal.caching import ScoreCache\n"
        "entry = ScoreCache(sys.argv[1]).entry({'weights': 'w', 'rows': 'r'}, bounds=[0, 2, 4, 6])\n"
        "entry.prepare()\nprint('open', flush=True)\nsys.stdin.read()"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, str(tmp_path / "cache")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield process
        process.kill()


def test_what_another_process_works_on_stays(distal: Run, tmp_path: Path, worker: Any) -> None:
    result = distal("cache", "prune", "--all", "--yes")
    assert result.exit_code == 0
    assert "another process works on it" in result.stdout
    assert len(json.loads(distal("cache", "ls", "--json").stdout)["entries"]) == 1
    worker.kill()
    worker.wait()
    assert distal("cache", "prune", "--all", "--yes").exit_code == 0
    assert json.loads(distal("cache", "ls", "--json").stdout)["entries"] == []


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["prune", "--older-than=soon"], 2, "as in 30d"),
        (["ls", "--cache-dir=nowhere"], 7, "there is no cache folder nowhere"),
        (["verify", "--cache-dir=pyproject.toml"], 7, "is a file"),
    ],
)
def test_refusals(distal: Run, words: list[str], code: int, message: str) -> None:
    result = distal("cache", *words)
    assert result.exit_code == code
    assert message in result.stderr


def test_a_later_version_s_entries_are_left_alone(distal: Run, tmp_path: Path) -> None:
    entry = fill(tmp_path / "cache", "r", 1)
    manifest = entry.folder / "manifest.json"
    manifest.write_text(json.dumps({"schema": "distal.scores/2"}))
    assert distal("cache", "verify").exit_code == 0
    assert distal("cache", "prune", "--partial", "--damaged", "--yes").exit_code == 0
    assert manifest.exists()
