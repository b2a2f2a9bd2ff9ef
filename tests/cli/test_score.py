"""`distal score`: the scores of `score_dataset`, in a Parquet file, from the cache where they are known."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import Result

from distal.caching import list_entries
from distal.data import prepare_dataset
from distal.scoring import dataset, score_dataset, weights_fingerprint
from distal.scoring.loading import load_model, load_tokenizer
from distal.workflow import scores as score_workflow
from tests.cli.score_job import SHARD_TOKENS

Run = Callable[..., Result]
JOB = Path(__file__).with_name("score_job.py")


@pytest.fixture
def score(distal: Run, model_folder: Path, pairs_file: Path, tmp_path: Path) -> Run:
    def run(*words: object, **options: object) -> Result:
        given = {"model": model_folder, "data": pairs_file, "output": tmp_path / "scores.parquet"} | options
        named = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
        return distal("score", *named, *words)

    return run


def table(path: Path) -> dict[str, Any]:
    return {
        name: column.to_numpy(zero_copy_only=False)
        for name, column in zip(pq.read_schema(path).names, pq.read_table(path).columns, strict=True)
    }


def expected(model: Path, data: Path) -> np.ndarray:
    """Scores without cache and command line."""
    rows = prepare_dataset(str(data), load_tokenizer(model), max_length=1024)
    return score_dataset(load_model(model, dtype="float32"), rows, progress=None)


def test_pairs_with_a_reference(
    score: Run, model_folder: Path, other_model_folder: Path, pairs_file: Path, tmp_path: Path
) -> None:
    result = score("--per-token", "--json", reference=other_model_folder, layout="padded")
    assert result.exit_code == 0, result.output
    path, summary = tmp_path / "scores.parquet", json.loads(result.stdout)
    found = table(path)
    policy, reference = expected(model_folder, pairs_file), expected(other_model_folder, pairs_file)
    assert np.array_equal(found["score"], policy)
    assert np.array_equal(found["reference_score"], reference)
    assert found["score"].dtype == found["reward"].dtype == np.float32
    np.testing.assert_allclose(found["reward"], policy.astype(float) - reference, rtol=1e-6)
    np.testing.assert_allclose(found["score_per_token"], policy / found["completion_tokens"], rtol=1e-6)
    assert found["side"].tolist() == ["chosen", "rejected"] * 40
    assert found["unit"].tolist() == found["row"].tolist() == [n // 2 for n in range(80)]
    lines = [json.loads(line) for line in pairs_file.read_text().splitlines()]
    words = [len(line[side].split()) for line in lines for side in ("chosen", "rejected")]
    assert found["completion_tokens"].tolist() == [n + 1 for n in words], "and the end of text"
    kept = json.loads(pq.read_schema(path).metadata[b"distal"])
    assert kept["schema"] == summary["schema"] == "distal.score_table/1"
    assert kept["model"]["fingerprint"] == weights_fingerprint(load_model(model_folder, dtype="float32"))
    assert kept["model"]["name"] == str(model_folder)
    assert kept["options"]["dtype"] == "float32"
    assert kept["versions"]["distal"]
    assert summary["computed"] == {"model": 80, "reference": 80}
    assert summary["means"]["chosen"]["rows"] == 40
    assert summary["means"]["chosen"]["score"] == pytest.approx(policy[0::2].mean())


@pytest.mark.parametrize("label", [True, False])
def test_samples_of_one_label(score: Run, model_folder: Path, tmp_path: Path, label: bool) -> None:
    """What training and comparisons refuse has scores all the same, and may be asked for twice."""
    data = tmp_path / "one.jsonl"
    rows = [{"prompt": "w3", "completion": f" w{i}", "label": label} for i in range(4, 12)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    both = tmp_path / "both.jsonl"
    other = {"prompt": "w3", "completion": " w4", "label": not label}
    both.write_text(data.read_text() + json.dumps(other) + "\n")
    for words in ((), ("--overwrite",)):
        result = score("--json", *words, data=data)
        assert result.exit_code == 0, result.output
        found = table(tmp_path / "scores.parquet")
        assert found["label"].tolist() == [label] * 8
        np.testing.assert_allclose(found["score"], expected(model_folder, both)[:8], rtol=1e-5)
        assert list(json.loads(result.stdout)["means"]) == ["liked" if label else "disliked"]


def test_samples_in_small_row_groups_and_again_from_the_cache(
    score: Run, samples_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_workflow, "ROW_GROUP", 7)
    first = score(data=samples_file)
    assert first.exit_code == 0, first.output
    assert "model: 60 of 60 rows scored, 0 from the cache" in first.stdout
    path = tmp_path / "scores.parquet"
    assert pq.ParquetFile(path).num_row_groups == 9
    found = table(path)
    assert found["label"].tolist() == [n % 3 != 2 for n in range(60)]
    assert list(found) == ["row", "unit", "label", "completion_tokens", "score"]
    before = path.read_bytes()
    refused = score(data=samples_file)
    assert refused.exit_code == 6
    assert "--overwrite" in refused.stderr
    monkeypatch.setattr(dataset, "score_rows", lambda *args: pytest.fail("scored again"))
    again = score("--overwrite", data=samples_file, layout="prefix_shared")
    assert again.exit_code == 0, again.output
    assert "0 of 60 rows scored, 60 from the cache" in again.stdout
    assert path.read_bytes() == before


def test_graded_answers(score: Run, tmp_path: Path) -> None:
    graded = tmp_path / "graded.jsonl"
    rows = [
        {"prompt": f"w{5 + n}", "completions": [" w9", f" w{10 + n} w8", " w7"], "scores": [1, 3 + n % 2, 5]}
        for n in range(6)
    ]
    graded.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert score(data=graded, from_grades="best_worst").exit_code == 0
    assert table(tmp_path / "scores.parquet")["completion_tokens"].tolist() == [2] * 12


def test_killed_and_started_again_the_file_is_the_same(
    score: Run,
    model_folder: Path,
    pairs_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dataset, "SHARD_TOKENS", SHARD_TOKENS)
    whole, resumed = tmp_path / "whole.parquet", tmp_path / "resumed.parquet"
    assert score(output=whole, cache_dir=tmp_path / "another cache").exit_code == 0
    words = [f"--model={model_folder}", f"--data={pairs_file}", f"--output={resumed}"]
    done = subprocess.run(
        [sys.executable, str(JOB), "3", "score", *words],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not resumed.exists()
    (entry,) = [found for found in list_entries(tmp_path / "cache") if found.kind == "scores"]
    assert entry.state == "partial"
    result = score("--json", output=resumed)
    assert result.exit_code == 0, result.output
    computed = json.loads(result.stdout)["computed"]["model"]
    assert entry.rows is not None
    assert computed == 80 - entry.rows < 80
    assert resumed.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ({"output": "scores.csv"}, 2, "name it *.parquet"),
        ({"reference_revision": "main"}, 2, "no effect without reference"),
        ({"model": "missing/folder/here"}, 4, "no such model or tokenizer folder"),
        ({"data": "missing.jsonl"}, 3, "missing.jsonl"),
        ({"layout": "heap"}, 2, "layout must be one of"),
        ({"tokens_per_batch": 0}, 2, "tokens_per_batch must be at least 1"),
    ],
)
def test_refusals(score: Run, options: dict[str, Any], code: int, message: str) -> None:
    result = score("--json", **options)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert message in result.stderr


def test_places_that_cannot_be_written_are_found_before_the_model_is_loaded(
    score: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_workflow, "scored_model", lambda *a, **k: pytest.fail("loaded"))
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.parquet").mkdir()
    for output in (tmp_path / "file" / "scores.parquet", tmp_path / "folder.parquet"):
        result = score(output=output)
        assert result.exit_code == 6
        assert str(output) in result.stderr


def test_unknown_precision_is_refused_before_data_is_read(score: Run, tmp_path: Path) -> None:
    result = score(dtype="float8", data=tmp_path / "missing.jsonl")
    assert result.exit_code == 2, result.output
    assert "dtype must be one of auto, float32, bfloat16, float16, float64; got 'float8'" in result.stderr
