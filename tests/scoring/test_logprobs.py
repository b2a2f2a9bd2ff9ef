"""Scores against a full-logits computation, and what is refused; all architectures are in `test_matrix.py`."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from distal.errors import ModelError
from distal.scoring import mean_token_entropy, pad_rows, score_rows, token_log_probs
from distal.types import TokenRow
from tests.scoring.architectures import one_by_one


def test_a_row_scores_the_same_alone_and_padded(make_llama, make_rows):
    model, rows = make_llama(dtype=torch.float64).eval(), make_rows(6)
    together = score_rows(model, rows)
    alone = torch.cat([score_rows(model, [row]) for row in rows])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-10)


def test_float64_models_are_scored_in_float64_and_bfloat16_ones_in_float32(make_llama, make_rows):
    rows = make_rows(4)
    exact = score_rows(make_llama(dtype=torch.float64), rows)
    coarse = score_rows(make_llama(dtype=torch.bfloat16), rows)
    assert exact.dtype == torch.float64
    assert coarse.dtype == torch.float32
    torch.testing.assert_close(coarse.double(), exact, rtol=2e-2, atol=0.1)


def test_pad_token_equal_to_end_of_text_does_not_hide_the_end(make_llama):
    """The completion's own end-of-text token must be scored although padding looks like it."""
    model = make_llama(pad_token_id=2).eval()
    short = TokenRow([1, 5, 2], 1, True, 0, 0)
    long = TokenRow([1, 5, 6, 7, 8, 2], 1, True, 1, 1)
    torch.testing.assert_close(
        score_rows(model, [short, long])[0].double(), one_by_one(model, [short])[0], rtol=1e-5, atol=1e-5
    )


def test_one_token_prompt_and_one_token_completion(make_llama):
    model = make_llama().eval()
    row = TokenRow([1, 9], 1, True, 0, 0)
    log_probs = model(input_ids=torch.tensor([[1]])).logits[0, 0].log_softmax(-1)
    assert score_rows(model, [row]).item() == pytest.approx(log_probs[9].item(), abs=1e-6)


def test_lora_on_every_layer_and_on_the_head(make_llama, make_rows):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    config = LoraConfig(r=4, target_modules=["q_proj", "down_proj", "lm_head"], init_lora_weights=False)
    model = get_peft_model(make_llama(), config).eval()
    rows = make_rows(3)
    scores = score_rows(model, rows)
    torch.testing.assert_close(scores.double(), one_by_one(model, rows), rtol=1e-5, atol=1e-4)
    scores.sum().backward()
    trained = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert any("lm_head" in name for name in trained)
    assert all("lora_" in name for name in trained)


def test_head_is_left_as_it_was(make_llama, make_rows):
    model = make_llama().eval()
    ids = torch.tensor([[1, 5, 6]])
    before = model(input_ids=ids).logits
    score_rows(model, make_rows(2))
    assert torch.equal(model(input_ids=ids).logits, before)


def test_a_model_without_a_head_is_refused(make_llama, make_rows):
    with pytest.raises(ModelError, match="no output embeddings"):
        score_rows(make_llama().model, make_rows(1))


def test_a_head_outside_the_logits_is_refused(make_llama, make_rows):
    class Bypass(nn.Module):
        """Computes logits from a copy of the head, so that the hook on the real one sees nothing."""

        def __init__(self, model):
            super().__init__()
            self.model, self.copy = model.model, copy.deepcopy(model.lm_head)
            self.head = model.lm_head

        def get_output_embeddings(self):
            return self.head

        def forward(self, input_ids, attention_mask, use_cache):
            hidden = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            return type("Output", (), {"logits": self.copy(hidden)})

    with pytest.raises(ModelError, match="do not pass through"):
        score_rows(Bypass(make_llama()), make_rows(2))


def test_padding_is_never_scored(make_rows):
    rows = make_rows(4)
    batch = pad_rows(rows)
    lengths = torch.tensor([row.completion_length for row in rows])
    assert torch.equal(batch.sum_by_row(torch.ones(len(batch.targets))), lengths.float())
    read = batch.input_ids.flatten()[batch.predictions].tolist()
    assert read == [t for row in rows for t in row.input_ids[row.prompt_length - 1 : -1]]
    assert batch.targets.tolist() == [t for row in rows for t in row.input_ids[row.prompt_length :]]


def test_no_rows_is_an_error():
    with pytest.raises(ValueError, match="at least one row"):
        pad_rows([])


def test_token_log_probs_do_not_lose_precision_in_bfloat16():
    """Against the same bfloat16 logits taken to float64: only the logits are coarse, not the log-sum-exp."""
    logits = torch.randn(50, 1000, generator=torch.Generator().manual_seed(0)).bfloat16() * 5
    targets = torch.arange(50)
    exact = logits.double().log_softmax(-1)[targets, targets]
    torch.testing.assert_close(token_log_probs(logits, targets).double(), exact, rtol=1e-5, atol=1e-5)


def test_entropy_equals_the_definition(make_llama, make_rows):
    """-sum p log p of the next token where a completion token is predicted, over all of them."""
    model, rows = make_llama(dtype=torch.float64), make_rows(3)
    expected = []
    with torch.no_grad():
        for row in rows:
            p = model(torch.tensor([row.input_ids])).logits[0, row.prompt_length - 1 : -1].softmax(-1)
            expected.append(-(p * p.log()).sum(-1))
    assert mean_token_entropy(model, rows) == pytest.approx(torch.cat(expected).mean().item(), rel=1e-12)


def test_entropy_of_a_uniform_and_of_a_certain_model(make_llama, make_rows):
    model = make_llama()
    with torch.no_grad():
        model.lm_head.weight.zero_()
        assert mean_token_entropy(model, make_rows(2)) == pytest.approx(math.log(64), rel=1e-6)
        model.model.norm.weight.mul_(1e6)
        model.lm_head.weight.copy_(make_llama().lm_head.weight)
    assert mean_token_entropy(model, make_rows(2)) == pytest.approx(0, abs=1e-6)
