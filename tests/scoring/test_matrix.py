"""The table of all architectures and all layouts: scores and gradients against padded rows in float32, and TRL's.

Tolerances: 1e-5 relative in float32, for gradients of the largest entry; 2e-2 in bfloat16; 1e-4 against TRL. The rows
hold every extreme: prompts and answers of one token, identical rows, rows that fill all positions.
"""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from distal.errors import DataError
from distal.scoring import PACKED, PADDED, Layout, PrefixShared, score_rows
from distal.types import TokenRow
from tests.scoring.architectures import ARCHITECTURES, model_of, one_by_one, random_rows

LAYOUTS: dict[str, Layout] = {
    "padded": PADDED,
    "packed": PACKED,
    "prefix shared": PrefixShared(least=1),
    "shared in pairs": PrefixShared(among=2, least=1),
}
ROWS = random_rows()
WEIGHTS = torch.linspace(-1, 1, len(ROWS))
PAD = 2
"""End of text, which rows end with too."""


def gradients_of(total: Tensor, model: Any) -> dict[str, Tensor]:
    model.zero_grad()
    total.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@cache
def baseline(name: str) -> tuple[Any, Tensor, dict[str, Tensor]]:
    """A model in float32 with scores and gradients of padded rows, from whole logits and without our code."""
    model = model_of(ARCHITECTURES[name])
    scores = from_logits(model, "right")
    return model, scores.detach(), gradients_of((scores * WEIGHTS).sum(), model)


def padded(side: str) -> tuple[Tensor, Tensor, Tensor]:
    """(R, T) tokens, mask and completion mask."""
    width = max(len(row.input_ids) for row in ROWS)
    ids, mask, completion = (torch.full((len(ROWS), width), fill) for fill in (PAD, 0, 0))
    for k, row in enumerate(ROWS):
        n = len(row.input_ids)
        start = 0 if side == "right" else width - n
        ids[k, start : start + n] = torch.tensor(row.input_ids)
        mask[k, start : start + n] = 1
        completion[k, start + row.prompt_length : start + n] = 1
    return ids, mask, completion


def from_logits(model: Any, side: str) -> Tensor:
    """(R,) scores as TRL computes them from logits; positions are counted from each row's first token."""
    select = pytest.importorskip("trl.trainer.utils").selective_log_softmax
    ids, mask, completion = padded(side)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits
    return (select(logits[:, :-1], ids[:, 1:]) * completion[:, 1:]).sum(1)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_float32(name, layout):
    model, expected, expected_gradients = baseline(name)
    scores = score_rows(model, ROWS, LAYOUTS[layout])
    torch.testing.assert_close(scores.detach(), expected, rtol=1e-5, atol=1e-5)
    gradients = gradients_of((scores * WEIGHTS).sum(), model)
    assert gradients.keys() == expected_gradients.keys()
    largest = max(g.abs().max().item() for g in expected_gradients.values())
    for parameter, gradient in gradients.items():
        off = (gradient - expected_gradients[parameter]).abs().max().item()
        assert off <= 1e-5 * largest, f"{parameter} is off by {off / largest:.2g}"


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_bfloat16(name):
    """Where experts are chosen, all of them are: near a tie rounding would choose others, in every layout."""
    config = copy.deepcopy(ARCHITECTURES[name])
    if hasattr(config, "num_experts_per_tok"):
        config.num_experts_per_tok = 4  # pyright: ignore[reportAttributeAccessIssue]
    exact = model_of(config)
    model = model_of(config, torch.bfloat16)
    with torch.no_grad():
        expected = score_rows(exact, ROWS)
        for layout, how in LAYOUTS.items():
            off = (score_rows(model, ROWS, how) - expected).abs() / expected.abs()
            assert off.max() <= 2e-2, f"{layout}: {off}"


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_trl(name):
    """From TRL's logits of rows padded on either side, and by the head that `DPOTrainer` puts on the model."""
    utils = pytest.importorskip("trl.trainer.utils")
    collator: Any = pytest.importorskip("trl.trainer.dpo_trainer").DataCollatorForPreference(pad_token_id=PAD)
    model = baseline(name)[0]
    with torch.no_grad():
        mine = score_rows(model, ROWS)
        for side in ("left", "right"):
            torch.testing.assert_close(from_logits(model, side), mine, rtol=1e-4, atol=1e-4, msg=side)
        torch.testing.assert_close(one_by_one(model, ROWS).float(), mine, rtol=1e-5, atol=1e-5)
        theirs = copy.deepcopy(model)
        utils.add_fused_lm_head(theirs)
        pairs = [
            {
                "prompt_ids": chosen.input_ids[: chosen.prompt_length],
                "chosen_ids": chosen.input_ids[chosen.prompt_length :],
                "rejected_ids": rejected.input_ids[rejected.prompt_length :],
            }
            for chosen, rejected in zip(ROWS[:12:2], ROWS[1:12:2], strict=True)
        ]
        batch = collator(pairs)
        completion = batch.pop("completion_mask")
        labels = batch["input_ids"].masked_fill(completion == 0, -100)
        found = theirs(**batch, labels=labels, fused_lm_head=True, use_cache=False).log_probs.sum(1)
        torch.testing.assert_close(found, torch.cat([mine[:12:2], mine[1:12:2]]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["gemma2", "gemma3", "mistral"])
def test_windows_that_hold_nothing_but_padding(name, layout):
    """In float64 a mask that is added to eager attention's logits overflows: softmax over padding alone is NaN."""
    model = model_of(ARCHITECTURES[name], torch.float64, "eager")
    expected = torch.cat([score_rows(model, [row]) for row in ROWS])
    expected_gradients = gradients_of((expected * WEIGHTS).sum(), model)
    scores = score_rows(model, ROWS, LAYOUTS[layout])
    torch.testing.assert_close(scores, expected, rtol=1e-6, atol=1e-6)  # its softmax is in float32
    torch.testing.assert_close(
        gradients_of((scores * WEIGHTS).sum(), model), expected_gradients, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("prompt_length", [0, 3])
def test_rows_without_prompt_or_completion_are_refused(layout, prompt_length):
    """The first token would be scored from whatever stands last in the batch."""
    rows = [*ROWS[:2], TokenRow([5, 6, 7], prompt_length, True, 1, source_row=17)]
    with pytest.raises(DataError, match=f"row 17: {prompt_length} of 3 tokens are its prompt"):
        LAYOUTS[layout].lay_out(rows)
