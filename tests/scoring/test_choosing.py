"""Which models are kept in padded rows: the known ones by what they state, unknown ones by their trial."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from peft import PromptTuningConfig, get_peft_model
from torch import nn
from transformers import (
    BloomConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    MptConfig,
    Qwen3NextConfig,
    RwkvConfig,
)

from distal.errors import ConfigError
from distal.scoring import (
    PACKED,
    PADDED,
    PREFIX_SHARED,
    attention,
    choose_layout,
    score_rows,
    why_padded,
)
from tests.scoring.architectures import ARCHITECTURES, SMALL, model_of, random_rows

STATEFUL = {
    "mamba": MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=4),
    "rwkv": RwkvConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, attention_hidden_size=32),
    "qwen3_next": Qwen3NextConfig(
        **SMALL,
        head_dim=8,
        num_experts=2,
        num_experts_per_tok=1,
        moe_intermediate_size=8,
        shared_expert_intermediate_size=8,
        linear_num_key_heads=2,
        linear_num_value_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        layer_types=["linear_attention", "full_attention"],
    ),
    "bloom": BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4),
    "mpt": MptConfig(vocab_size=64, d_model=32, n_layers=2, n_heads=4),
    "llama with dynamic rope": LlamaConfig(
        **SMALL, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    ),
    "gpt2 that reorders": GPT2Config(
        vocab_size=64, n_embd=32, n_layer=2, n_head=4, reorder_and_upcast_attn=True
    ),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_models_that_pass(name, dtype):
    if name in ("mixtral", "qwen3_moe") and dtype == torch.bfloat16:
        pytest.skip("whether rounding moves a token to another expert is chance")
    model = model_of(ARCHITECTURES[name], dtype)
    assert choose_layout("auto", [model]) == PREFIX_SHARED
    assert why_padded(model, PACKED) is None


@pytest.mark.parametrize("name", STATEFUL)
def test_models_that_state_why_not(name):
    model = model_of(STATEFUL[name])
    assert choose_layout("auto", [model]) == PADDED
    assert choose_layout("packed", [model]) == PADDED


def test_a_model_compiled_and_one_with_a_learned_prompt_are_padded(make_llama):
    prompted = get_peft_model(make_llama(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    assert "adds tokens" in str(why_padded(prompted, PACKED))
    assert "compiled" in str(why_padded(torch.compile(make_llama(), backend="eager"), PACKED))  # pyright: ignore[reportArgumentType]
    in_place = make_llama()
    in_place.model.layers[0].compile(backend="eager")
    assert "compiled" in str(why_padded(in_place, PACKED))
    assert "no model of transformers" in str(why_padded(nn.Linear(2, 2), PACKED))


def leak(_module, _args, output):
    """What a recurrent state or a convolution does: a token hears of the one before it, if ever so little."""
    hidden = output[0] if isinstance(output, tuple) else output
    mixed = hidden.clone()
    mixed[:, 1:] = mixed[:, 1:] + 0.02 * hidden[:, :-1]
    return (mixed, *output[1:]) if isinstance(output, tuple) else mixed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [PACKED, PREFIX_SHARED], ids=lambda layout: layout.name)
def test_an_unknown_model_that_leaks_is_found_by_its_trial(make_llama, layout, dtype):
    model = make_llama(dtype=dtype).eval()
    assert why_padded(model, layout) is None
    model.model.layers[0].register_forward_hook(leak)
    assert "score" in str(why_padded(model, layout))


@pytest.mark.parametrize("layout", [PACKED, PREFIX_SHARED], ids=lambda layout: layout.name)
def test_an_unknown_model_that_counts_positions_itself_is_found(layout):
    model = model_of(ARCHITECTURES["gpt2"])
    model.register_forward_pre_hook(
        lambda _module, args, given: (args, given | {"position_ids": None}), with_kwargs=True
    )
    assert "otherwise than by itself" in str(why_padded(model, layout))


@pytest.mark.parametrize("window", [4, 40])
def test_an_unknown_window_by_place_is_found(window):
    """A window counted in places of the row lies elsewhere where an answer does not stand next to its prompt."""
    model = model_of(MistralConfig(**SMALL, sliding_window=window))
    assert why_padded(model, PREFIX_SHARED) is None

    def by_place(_module, args, given):
        mask = given["attention_mask"]
        if hasattr(mask, "segments"):
            n = mask.segments.n_tokens
            places = torch.arange(n)
            band = (places[:, None] - places < window) & mask.segments.visible()
            given = given | {"attention_mask": band[None, None]}
        return args, given

    for layer in model.model.layers:
        layer.register_forward_pre_hook(by_place, with_kwargs=True)
    for module in model.modules():
        if hasattr(module, "num_key_value_groups"):
            module.is_causal = False
    assert "otherwise than by itself" in str(why_padded(model, PREFIX_SHARED))


def test_a_model_that_cannot_take_positions_is_padded_and_scored(make_llama, make_rows, caplog):
    class Plain(nn.Module):
        """Takes tokens and a mask, nothing else."""

        def __init__(self, model):
            super().__init__()
            self.model = model
            self.config, self._supports_attention_backend = model.config, True
            self.get_input_embeddings = model.get_input_embeddings
            self.get_output_embeddings = model.get_output_embeddings

        def forward(self, input_ids, attention_mask=None, use_cache=False):
            return self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache)

    model = Plain(make_llama()).eval()
    with caplog.at_level(logging.INFO):
        layout = choose_layout("packed", [model])
    assert layout == PADDED
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "packed is not for this model: a trial failed (TypeError" in caplog.text
    rows = make_rows(3)
    torch.testing.assert_close(score_rows(model, rows, layout), score_rows(make_llama().eval(), rows))


def any_lengths(query, key, value, ends, key_ends, *longest: int, scale, window_size, enable_gqa):
    """Attention over sequences of different lengths: one after another, by PyTorch's own attention."""
    found = []
    for s in range(len(ends) - 1):
        q = query[ends[s] : ends[s + 1]].transpose(0, 1)
        k, v = (x[key_ends[s] : key_ends[s + 1]].transpose(0, 1) for x in (key, value))
        distance = torch.arange(q.shape[1])[:, None] + k.shape[1] - q.shape[1] - torch.arange(k.shape[1])
        seen = (distance >= 0) if window_size[0] < 0 else (distance >= 0) & (distance <= window_size[0])
        attend = nn.functional.scaled_dot_product_attention
        found.append(attend(q, k, v, seen, scale=scale, enable_gqa=enable_gqa).transpose(0, 1))
    return torch.cat(found)


@pytest.fixture
def kernel(monkeypatch):
    """A kernel for sequences of different lengths in half precision, as on a GPU; the types that it was given."""
    given: list[torch.dtype] = []

    def noted(query, key, value, *lengths: Any, **settings):
        given.extend(x.dtype for x in (query, key, value))
        return any_lengths(query, key, value, *lengths, **settings)

    monkeypatch.setattr(attention, "has_varlen_kernel", lambda device, dtype: dtype == torch.bfloat16)
    monkeypatch.setattr(attention, "varlen_kernel", lambda: noted)
    return given


@pytest.mark.parametrize("config", ["llama", "mistral"])
@pytest.mark.parametrize("layout", [PACKED, PREFIX_SHARED], ids=lambda layout: layout.name)
def test_mixed_precision_takes_the_kernel(kernel, layout, config):
    """Weights in float32, and queries too, behind their rotary positions: autocast casts them, so the kernel can."""
    model = model_of(ARCHITECTURES[config])
    assert why_padded(model, layout, in_one_call=True) is not None  # in float32 there is no kernel
    assert kernel == []
    assert why_padded(model, layout, torch.bfloat16, in_one_call=True) is None
    assert set(kernel) == {torch.bfloat16}
    rows = random_rows()
    with torch.autocast("cpu", torch.bfloat16):
        scores = score_rows(model, rows, layout)
    torch.testing.assert_close(scores, score_rows(model, rows), rtol=2e-2, atol=0.2)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (LlamaConfig(**SMALL, head_dim=512), "LlamaAttention: heads of 512 and 512 dimensions"),
        (ARCHITECTURES["gemma2"], "Gemma2Attention: attention eager"),
    ],
    ids=["long heads", "eager"],
)
def test_what_the_kernel_cannot_do_is_found_by_the_trial(kernel, config, why):
    """Right by the trial, but slow on a GPU: one call of attention for each row in each layer."""
    model = model_of(config, torch.bfloat16)
    assert why_padded(model, PACKED) is None
    assert why in str(why_padded(model, PACKED, in_one_call=True))
    assert kernel == []


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (TypeError("an unexpected argument"), "WARNING"),
        (AttributeError("no such"), "WARNING"),
        (RuntimeError("this device"), "INFO"),
    ],
)
def test_a_call_that_does_not_fit_is_told_where_nobody_asked_for_a_layout_too(
    error, level, make_llama, caplog
):
    """It is a fault of a program, not a property of the model."""

    def refuse(_module, _args, given):
        if given["position_ids"] is not None:
            raise error

    model = make_llama().eval()
    model.register_forward_pre_hook(
        lambda module, args, given: refuse(module, args, {"position_ids": None} | given), with_kwargs=True
    )
    with caplog.at_level(logging.INFO):
        assert choose_layout("auto", [model]) == PADDED
    assert [record.levelname for record in caplog.records if "layout" in record.message] == [level]
    assert f"a trial failed ({type(error).__name__}: {error})" in caplog.text


def test_policy_and_reference_share_the_layout(make_llama):
    """One of two models that cannot is enough."""
    assert choose_layout("auto", [make_llama(), model_of(STATEFUL["mamba"])]) == PADDED


def test_the_choice_is_told_in_one_line(make_llama, caplog):
    with caplog.at_level(logging.INFO):
        assert choose_layout("auto", [make_llama()]) == PREFIX_SHARED
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["layout prefix_shared"]


def test_an_unknown_name_is_an_error(make_llama):
    with pytest.raises(ConfigError, match="'flat' is unknown; choose one of auto, padded"):
        choose_layout("flat", [make_llama()])
