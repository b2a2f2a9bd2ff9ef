"""Scoring shared out over three processes: the scores of one process, in the same number of passes on every rank."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from distal.scoring import cut_by_tokens, dataset, score_dataset
from tests.scoring.sharing_job import CASES, SHARD_TOKENS, WAVE, Model, Rows

JOB = Path(__file__).parent / "sharing_job.py"
WORLD = 3


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """(scores, what else it saw) of each rank."""
    folder = tmp_path_factory.mktemp("ranks")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *(f"--nproc-per-node={WORLD}", str(JOB), str(folder)),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [
        (dict(np.load(folder / f"{rank}.npz")), json.loads((folder / f"{rank}.json").read_text()))
        for rank in range(WORLD)
    ]


@pytest.mark.parametrize("case", CASES)
def test_every_rank_has_the_scores_of_one_process(ranks, case):
    n, tokens = CASES[case]
    expected = score_dataset(Model(), Rows(n), tokens_per_batch=tokens, progress=None)
    assert len(np.unique(expected)) == n, "the rows must be told apart"
    for scores, _ in ranks:
        assert scores[case].dtype == expected.dtype
        assert np.array_equal(scores[case], expected), "not bitwise equal"


@pytest.mark.parametrize("case", CASES)
def test_every_rank_runs_the_same_number_of_passes(ranks, case):
    """Of forward passes that are collective operations, as with sharded weights, none may be left waiting."""
    n, tokens = CASES[case]
    groups = len(cut_by_tokens([len(row.input_ids) for row in Rows(n).rows], tokens))
    assert groups % WORLD, "the case should be one that does not divide evenly"
    assert [seen[case] for _, seen in ranks] == [-(-groups // WORLD)] * WORLD


def test_the_first_ranks_cache_serves_all(ranks):
    expected = score_dataset(Model(), Rows(7), tokens_per_batch=1, progress=None)
    for scores, seen in ranks:
        assert np.array_equal(scores["reference"], expected)
        assert np.array_equal(scores["reference from the cache"], expected)
        assert seen["reference"] == 3
        assert seen["reference from the cache"] == 0
    assert [seen["entries"] for _, seen in ranks] == [1, 0, 0], "only the first rank writes"


def test_ranks_share_the_shards_that_the_first_rank_lacks(ranks, monkeypatch):
    monkeypatch.setattr(dataset, "SHARD_TOKENS", SHARD_TOKENS)
    expected = score_dataset(Model(), Rows(7), tokens_per_batch=1, progress=None)
    bounds = dataset.shard_bounds([len(row.input_ids) for row in Rows(7).rows], 1)
    rows = [stop - start for start, stop in itertools.pairwise(bounds)]
    assert len(rows) > 2
    passes, together = 0, 0
    for count in [*rows, 0]:
        together += count
        if together >= WAVE * WORLD or count == 0:  # shards are scored together until every rank has a pass
            passes, together = passes - (-together // WORLD), 0
    assert -(-7 // WORLD) <= passes < sum(-(-count // WORLD) for count in rows)
    for scores, seen in ranks:
        assert np.array_equal(scores["reference in shards"], expected)
        assert np.array_equal(scores["reference with a shard lost"], expected)
        assert seen["reference in shards"] == passes
        assert seen["reference with a shard lost"] == -(-rows[1] // WORLD)


def test_what_the_first_rank_says_holds_for_all(ranks):
    for _, seen in ranks:
        assert seen["word"] == "checkpoint-7"
        assert seen["values"] == [0.0, 1.0, 2.0]
        assert seen["nothing"], "what another rank has does not count"
