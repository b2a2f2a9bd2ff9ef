"""One rank of the tests of shared scoring: runs every case in one process group and writes what each rank saw.

Usage: python -m torch.distributed.run --nproc-per-node=W sharing_job.py FOLDER
"""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from distal.scoring import FrozenModel, dataset, reference_scores, score_dataset, score_rows
from distal.scoring.sharing import from_first_rank, word_from_first_rank
from distal.types import DataKind, TokenRow

VOCABULARY = 64
SHARD_TOKENS, WAVE = 30, 1
# (rows, tokens of a forward pass): shares of unequal size, a rank with one row, one without any, all in one pass.
CASES = {
    "7 rows one by one": (7, 1),
    "11 rows by tokens": (11, 40),
    "2 rows one by one": (2, 1),
    "5 rows at once": (5, 10_000),
}


class Model(nn.Module):
    """A language model without a library around it: its state is a sum over the prefix. Counts its passes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head = nn.Embedding(VOCABULARY, 16), nn.Linear(16, VOCABULARY)
        self.passes = 0

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, input_ids, **_: Any) -> Any:
        self.passes += 1
        return SimpleNamespace(logits=self.head(self.embedding(input_ids).cumsum(1).tanh()))


class Rows:
    """A `RowSource` of unpaired rows of very different lengths."""

    kind: DataKind = "unpaired"

    def __init__(self, n: int) -> None:
        draw = Random(n)

        def row(number: int) -> TokenRow:
            tokens = [draw.randrange(VOCABULARY) for _ in range(draw.randrange(2, 30))]
            return TokenRow(tokens, draw.randrange(1, len(tokens)), True, number, number)

        self.rows = [row(number) for number in range(n)]
        self.fingerprint = f"{n} rows"

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> list[TokenRow]:
        return [self.rows[index]]


def known_model() -> Model:
    """A model whose head has been examined, which takes a pass at first."""
    model = Model()
    score_rows(model, Rows(1)[0])
    model.passes = 0
    return model


def main(folder: Path) -> None:
    """Score every case, then a reference through a cache that this rank shares with no other."""
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    rank, seen, arrays = dist.get_rank(), {}, {}
    for name, (n, tokens) in CASES.items():
        model = known_model()
        arrays[name] = score_dataset(model, Rows(n), tokens_per_batch=tokens, progress=None, shared=True)
        seen[name] = model.passes
    cache = folder / f"cache-{rank}"
    for name in ("reference", "reference from the cache"):
        model = known_model()
        arrays[name] = reference_scores(
            FrozenModel(model), Rows(7), cache_dir=cache, tokens_per_batch=1, progress=None, shared=True
        )
        seen[name] = model.passes
    seen["entries"] = len(list(cache.rglob("*.safetensors")))
    dataset.SHARD_TOKENS, dataset.WAVE = SHARD_TOKENS, WAVE
    for name in ("reference in shards", "reference with a shard lost"):
        if name.endswith("lost"):
            for path in cache.rglob("00001-*"):  # the first rank's
                path.unlink()
        model = known_model()
        arrays[name] = reference_scores(
            FrozenModel(model), Rows(7), cache_dir=cache, tokens_per_batch=1, progress=None, shared=True
        )
        seen[name] = model.passes
    seen["word"] = word_from_first_rank("checkpoint-7" if rank == 0 else "another")
    held = np.arange(3.0) if rank == 0 else None
    received = from_first_rank(held, like=np.zeros(3))
    seen["values"] = None if received is None else received.tolist()
    seen["nothing"] = from_first_rank(None if rank == 0 else np.ones(3), like=np.zeros(3)) is None
    np.savez(folder / f"{rank}.npz", **arrays)
    (folder / f"{rank}.json").write_text(json.dumps(seen))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
