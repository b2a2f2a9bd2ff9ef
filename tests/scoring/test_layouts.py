"""Every layout against rows scored one by one: the same scores and gradients, whatever the architecture.

Tolerances: 1e-5 of the score and of the largest gradient in float32, 1e-10 in float64, 2e-2 of the score in bfloat16.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPTNeoXConfig,
    MistralConfig,
    OlmoConfig,
    PreTrainedConfig,
    Qwen3MoeConfig,
)

from distal.scoring import PACKED, PADDED, Layout, PrefixShared, choose_layout, score_rows
from distal.scoring.attention import attention_name
from distal.types import TokenRow
from tests.scoring.test_logprobs import ARCHITECTURES, SMALL

LAYOUTS: dict[str, Layout] = {
    "padded": PADDED,
    "packed": PACKED,
    "prefix shared": PrefixShared(least=1),
    "shared in pairs": PrefixShared(among=2, least=1),
}
THREE_LAYERS: dict[str, Any] = SMALL | {"num_hidden_layers": 3}
CONFIGS: dict[str, PreTrainedConfig] = ARCHITECTURES | {
    # Windows of four tokens and full attention by turns.
    "gemma3": Gemma3TextConfig(
        **THREE_LAYERS,
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=4,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "olmo": OlmoConfig(**SMALL),
    "qwen3_moe": Qwen3MoeConfig(
        **SMALL,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        output_router_logits=True,
    ),
}
# Those that compute in the type of their weights throughout.
WIDE = {
    "gpt2": ARCHITECTURES["gpt2"],
    "gpt_neox": GPTNeoXConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    ),
}


def answers_to(prompt: list[int], *answers: list[int]) -> list[TokenRow]:
    return [TokenRow(prompt + answer, len(prompt), True, 0, 0) for answer in answers]


def random_rows(seed: int = 0) -> list[TokenRow]:
    """Pairs, among them every extreme: the longest fill the model's 128 positions."""
    random = Random(seed)

    def ids(n: int) -> list[int]:
        return [random.randrange(3, 64) for _ in range(n)]

    same, long = ids(5), ids(100)
    return [
        *answers_to([1, *ids(6)], [*ids(9), 2], [*ids(3), 2]),
        *answers_to([1], [*ids(4), 2], [2]),  # a prompt of one token: what an empty one becomes
        *answers_to([1, *ids(11)], [7], [2]),  # answers of one token
        *answers_to([1, *same], [5, 6, 2], [5, 6, 2]),  # identical rows
        *answers_to([1, *same], ids(8), ids(1)),  # the same prompt in another pair
        *answers_to(long, ids(28), ids(27)),  # 128 tokens
        *answers_to([1, 5], ids(3)),  # a pair with two prompts
        *answers_to([1, 6], ids(2)),
    ]


def scores_and_gradients(model: Any, rows: list[TokenRow], layout: Layout | None) -> tuple[torch.Tensor, Any]:
    """Of one forward pass in a layout; None for a forward pass of each row by itself."""
    model.zero_grad()
    if layout is None:
        scores = torch.cat([score_rows(model, [row]) for row in rows])
    else:
        scores = score_rows(model, rows, layout)
    (scores * torch.linspace(-1, 1, len(rows), dtype=scores.dtype)).sum().backward()
    return scores.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_layouts_agree(model: Any, rows: list[TokenRow], tolerance: float, layouts: Any = LAYOUTS) -> None:
    expected, expected_gradients = scores_and_gradients(model, rows, None)
    scale = max(g.abs().max().item() for g in expected_gradients.values())
    for name in layouts:
        scores, gradients = scores_and_gradients(model, rows, LAYOUTS[name])
        torch.testing.assert_close(scores, expected, rtol=tolerance, atol=tolerance, msg=name)
        assert gradients.keys() == expected_gradients.keys()
        for parameter, gradient in gradients.items():
            off = (gradient - expected_gradients[parameter]).abs().max().item()
            assert off <= tolerance * scale, f"{name}: {parameter} is off by {off / scale:.2g}"


@pytest.mark.parametrize("name", CONFIGS)
def test_architectures_in_float32(name):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name], dtype=torch.float32).eval()
    assert_layouts_agree(model, random_rows(), 1e-5)


@pytest.mark.parametrize("name", WIDE)
def test_architectures_in_float64(name):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(WIDE[name], dtype=torch.float64).eval()
    assert_layouts_agree(model, random_rows(), 1e-10)


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in ("mixtral", "qwen3_moe")])
def test_scores_in_bfloat16(name):
    """Experts are chosen by comparing numbers: near a tie rounding chooses another one, in every layout."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name], dtype=torch.float32).eval().bfloat16()
    rows = random_rows()
    with torch.no_grad():
        expected = torch.cat([score_rows(model, [row]) for row in rows])
        for layout in LAYOUTS.values():
            torch.testing.assert_close(score_rows(model, rows, layout), expected, rtol=2e-2, atol=0.1)


@pytest.mark.parametrize("kind", ["sdpa", "eager"])
@pytest.mark.parametrize("pad", [0, 2])
def test_kinds_of_attention_and_pad_tokens(make_llama, kind, pad):
    model = make_llama(attn_implementation=kind, pad_token_id=pad).eval()
    assert_layouts_agree(model, random_rows(1), 1e-5)
    assert model.config._attn_implementation == kind


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("kind", ["sdpa", "eager"])
def test_one_kernel_for_all_segments_on_a_gpu(window, kind):
    """In bfloat16, as far from float32 as padded rows are, scores and gradients."""
    torch.manual_seed(0)
    settings: dict[str, Any] = SMALL | {"hidden_size": 64, "sliding_window": window}
    config = MistralConfig(**settings)
    model = (
        AutoModelForCausalLM.from_config(config, attn_implementation=kind, dtype=torch.float32).cuda().eval()
    )
    exact, exact_gradients = scores_and_gradients(model, random_rows(), None)
    model.bfloat16()
    assert choose_layout("auto", [model]).name == ("prefix_shared" if kind == "sdpa" else "padded")
    for layout in LAYOUTS.values():
        scores, gradients = scores_and_gradients(model, random_rows(), layout)
        torch.testing.assert_close(scores, exact, rtol=2e-2, atol=0.2)
        for name, gradient in gradients.items():
            a, b = gradient.float().flatten(), exact_gradients[name].flatten()
            assert torch.cosine_similarity(a, b, dim=0) > 0.99, f"{layout.name}: {name}"


@pytest.mark.parametrize("reentrant", [True, False])
def test_lora_on_everything_with_checkpointing(make_llama, reentrant):
    """Checkpointed layers run again in the backward pass, when nothing but their arguments tells the layout."""
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    model: Any = get_peft_model(make_llama(), config).train()
    model.enable_input_require_grads()
    expected, expected_gradients = scores_and_gradients(model, random_rows(), None)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    for layout in LAYOUTS.values():
        scores, gradients = scores_and_gradients(model, random_rows(), layout)
        torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(gradients, expected_gradients, rtol=1e-4, atol=1e-4)
    assert attention_name(model) == "sdpa"


def test_the_model_is_left_as_it_was(make_llama):
    model = make_llama().eval()
    ids = torch.tensor([[1, 5, 6]])
    before = model(input_ids=ids).logits
    score_rows(model, random_rows(), LAYOUTS["prefix shared"])
    assert torch.equal(model(input_ids=ids).logits, before)
    assert model.config._attn_implementation == "sdpa"


def test_a_layout_reads_no_token_twice():
    """By hand: a prompt of 3 with answers of 2 and 1, and a row of 4."""
    rows = [*answers_to([1, 5, 6], [7, 8], [9]), *answers_to([4], [5, 6, 7])]
    assert LAYOUTS["prefix shared"].lay_out(rows).input_ids.tolist() == [[1, 5, 6, 7, 8, 9, 4, 5, 6, 7]]
    assert PACKED.lay_out(rows).input_ids.tolist() == [[1, 5, 6, 7, 8, 1, 5, 6, 9, 4, 5, 6, 7]]
    assert PADDED.lay_out(rows).input_ids.shape == (3, 5)
    assert LAYOUTS["prefix shared"].lay_out(rows).predictions.tolist() == [2, 3, 2, 6, 7, 8]


def test_short_prompts_are_not_shared():
    rows = answers_to([1, 5, 6], [7], [8])
    assert PrefixShared(least=4).lay_out(rows).input_ids.shape == (1, 8)
    assert PrefixShared(least=3).lay_out(rows).input_ids.shape == (1, 5)


PROMPTS = st.lists(st.sampled_from([(1,), (1, 5), (1, 5, 6, 7), (9,) * 6]), min_size=1, max_size=12)


@given(PROMPTS, st.integers(1, 30), st.sampled_from([1, 2]), st.sampled_from(sorted(LAYOUTS)), st.randoms())
def test_budgets_count_what_is_laid_out(prompts, budget, width, name, random):
    """Groups hold every unit once, and no more tensors than the budget, unless a unit alone takes more."""
    layout = LAYOUTS[name] if name != "shared in pairs" else LAYOUTS["prefix shared"].separable(width)
    rows = [
        row
        for prompt in prompts
        for row in answers_to(list(prompt), *([3] * random.randrange(1, 5) for _ in range(width)))
    ]
    groups = layout.cut_by_tokens(rows, width, budget)
    assert sorted(unit for group in groups for unit in group) == list(range(len(prompts)))
    for group in groups:
        members = [rows[unit * width + side] for unit in group for side in range(width)]
        tensors = layout.lay_out(members).input_ids
        assert layout.places(members) == tensors.numel()
        assert tensors.numel() <= budget or len(group) == 1
    separable = layout.separable(width)
    assert sum(separable.unit_places(rows, width)) == separable.places(rows)


@given(PROMPTS, st.integers(1, 5), st.sampled_from(sorted(LAYOUTS)))
def test_counts_hold_every_unit_once(prompts, count, name):
    rows = [row for prompt in prompts for row in answers_to(list(prompt), [3, 4], [5])]
    groups = LAYOUTS[name].cut_by_count(rows, 2, count)
    assert sorted(unit for group in groups for unit in group) == list(range(len(prompts)))
    assert all(len(group) == count for group in groups[:-1])


def test_units_with_one_prompt_meet_in_one_pass():
    """Graded groups become pairs of one prompt: they share it wherever the budget allows."""
    a, b = [1, *range(5, 24)], [1, *range(30, 49)]
    rows = [row for prompt in (a, b, a, b) for row in answers_to(prompt, [3, 4], [5])]
    groups = LAYOUTS["prefix shared"].cut_by_tokens(rows, 2, budget=26)
    assert sorted(map(sorted, groups)) == [[0, 2], [1, 3]]


def masked(rows: list[TokenRow], seed: int = 0) -> list[TokenRow]:
    """The same rows, half of them with a mask that leaves some of their completion tokens out."""
    random = Random(seed)
    found: list[TokenRow] = []
    for row in rows:
        mask = [random.random() < 0.5 for _ in range(row.completion_length)]
        mask[random.randrange(len(mask))] = True
        found.append(replace(row, completion_mask=mask) if random.random() < 0.5 else row)
    return found


def test_the_score_is_the_sum_over_what_the_mask_leaves(make_llama):
    """Beside log-probabilities of the whole sequence, token by token, without any of the library's code."""
    model = make_llama(dtype=torch.float64).eval()
    rows = masked(random_rows())
    assert 2 < sum(row.completion_mask is not None for row in rows) < len(rows)
    expected: list[float] = []
    for row in rows:
        with torch.no_grad():
            log_probs = model(input_ids=torch.tensor([list(row.input_ids)])).logits[0].log_softmax(-1)
        total = 0.0
        for k, token in enumerate(row.input_ids[row.prompt_length :]):
            if row.completion_mask is None or row.completion_mask[k]:
                total += log_probs[row.prompt_length + k - 1, token].item()
        expected.append(total)
    for layout in LAYOUTS.values():
        scores = score_rows(model, rows, layout)
        torch.testing.assert_close(scores, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)


def test_layouts_agree_on_masked_rows(make_llama):
    assert_layouts_agree(make_llama().eval(), masked(random_rows()), 1e-5)


@pytest.mark.parametrize("mask", [[True], [False, False]])
def test_a_mask_must_fit_and_leave_something(mask):
    row = replace(answers_to([1, 5], [6, 7])[0], completion_mask=mask, source_row=3)
    for layout in LAYOUTS.values():
        with pytest.raises(
            ValueError, match=r"row 3: .*an entry for each of 2 tokens, at least one of them true"
        ):
            layout.lay_out([row])
