"""`distal align` on real rows of every kind: pairs of transcripts, judged answers, graded answers."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from typer.testing import Result

from tests.cli.conftest import write_rows
from tests.data.conftest import CHATML


@pytest.fixture(scope="module")
def byte_model(make_llama: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that reads bytes, with a chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({token: i for i, token in enumerate(["<eos>", *alphabet])}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", pad_token="<eos>")
    tokenizer.chat_template = CHATML
    folder = tmp_path_factory.mktemp("model")
    tokenizer.save_pretrained(folder)
    ids = {"eos_token_id": 0, "pad_token_id": 0, "bos_token_id": None}
    make_llama(vocab_size=257, max_position_embeddings=512, **ids).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("file", "objective", "options", "kind"),
    [
        ("hh-rlhf/helpful-base.jsonl.gz", "aot", {"chat": True}, "paired"),
        ("tulu1-human/unpaired.jsonl.gz", "aot_unpaired", {}, "unpaired"),
        (
            "arena-graded/graded.jsonl.gz",
            "aot_unpaired",
            {"grade_threshold": "prompt_median", "grade_ties": "disliked"},
            "unpaired",
        ),
        (
            "arena-graded/graded.jsonl.gz",
            "aot",
            {"from_grades": "all_pairs", "grade_margin": 2},
            "paired",
        ),
    ],
)
def test_real_rows_are_trained_on(
    align: Callable[..., Result],
    shared_data: Path,
    byte_model: Path,
    tmp_path: Path,
    file: str,
    objective: str,
    options: dict[str, Any],
    kind: str,
) -> None:
    with gzip.open(shared_data / file, "rt", encoding="utf-8", newline="\n") as lines:
        rows = [json.loads(line) for line in lines]
    rows.sort(key=lambda row: len(str(row.get("prompt", row.get("chosen")))))  # short ones, prompt by prompt
    data = write_rows(tmp_path / "rows.jsonl", islice(rows, 60))
    result = align(
        model=byte_model,
        data=data,
        objective=objective,
        eval_size=0.3,
        max_length=160,
        global_batch_size=4,
        truncation="truncate_completion",
        **options,
    )
    assert result.exit_code == 0, result.output
    certificate = json.loads((tmp_path / "out" / "dominance.json").read_text("utf-8"))
    assert certificate["kind"] == kind
