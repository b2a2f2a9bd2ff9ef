"""References: identity of weights, and every way of having a reference."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from distal.errors import ModelError
from distal.scoring import (
    AdapterOff,
    AdapterSnapshot,
    FrozenModel,
    InitialPolicy,
    choose_reference,
    reference_scores,
    score_row_list,
    weights_fingerprint,
)
from tests.scoring.test_dataset import Rows

LORA = LoraConfig(r=2, target_modules=["q_proj"])


def shift(model, amount=0.1):
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(amount)


def test_fingerprint_sees_every_weight_type_and_configuration(make_llama):
    base = weights_fingerprint(make_llama())
    assert weights_fingerprint(make_llama()) == base
    changed = make_llama()
    with torch.no_grad():
        changed.model.norm.weight[0] += 1e-6
    others = [changed, make_llama(dtype=torch.float64), make_llama(seed=1), make_llama(rms_norm_eps=1e-3)]
    assert len({base, *map(weights_fingerprint, others)}) == 5


def test_base_under_a_new_adapter_shares_the_bare_model_s_fingerprint(make_llama):
    bare = weights_fingerprint(make_llama())
    wrapped = get_peft_model(make_llama(), LORA)
    assert weights_fingerprint(wrapped, with_adapters=False) == bare
    assert weights_fingerprint(wrapped) != bare


def adapted(make_llama, **settings):
    """The same weights, of the adapter too, whatever its settings."""
    torch.manual_seed(0)
    model = get_peft_model(make_llama(), LoraConfig(r=2, target_modules=["q_proj", "v_proj"], **settings))
    shift(model)
    return model


@pytest.mark.parametrize("settings", [{"lora_alpha": 64}, {"lora_alpha": 4, "use_rslora": True}])
def test_equal_weights_that_adapters_scale_otherwise_are_another_model(make_llama, make_rows, settings):
    one, other = adapted(make_llama, lora_alpha=4), adapted(make_llama, **settings)
    rows = make_rows(2)
    assert not np.allclose(score_row_list(one, rows), score_row_list(other, rows), atol=1e-3)
    assert weights_fingerprint(one) != weights_fingerprint(other)
    assert weights_fingerprint(one) == weights_fingerprint(adapted(make_llama, lora_alpha=4))
    assert weights_fingerprint(one, with_adapters=False) == weights_fingerprint(other, with_adapters=False)


def test_the_active_adapter_is_part_of_the_model(make_llama, make_rows):
    model = adapted(make_llama)
    model.add_adapter("other", LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    rows, found, scores = make_rows(2), [], []
    for name in ("default", "other", "default"):
        model.set_adapter(name)
        found.append(weights_fingerprint(model))
        scores.append(score_row_list(model, rows))
    with model.disable_adapter():
        found.append(weights_fingerprint(model))
        scores.append(score_row_list(model, rows))
    assert found[0] == found[2]
    assert len(set(found)) == len({tuple(s.tolist()) for s in scores}) == 3


def test_an_adapter_that_was_saved_is_the_same_model(make_llama, tmp_path):
    """Where it was loaded from, and for what, is no part of it."""
    model = adapted(make_llama, lora_alpha=4)
    model.save_pretrained(tmp_path)
    assert weights_fingerprint(PeftModel.from_pretrained(make_llama(), tmp_path)) == weights_fingerprint(
        model
    )


def test_adapters_off_scores_like_the_bare_model(make_llama, make_rows, tmp_path):
    rows = make_rows(3)
    bare = score_row_list(make_llama(), rows)
    policy = get_peft_model(make_llama(), LORA)
    shift(policy)
    reference = choose_reference(policy, None, new_adapter=True)
    assert isinstance(reference, AdapterOff)
    assert not np.allclose(score_row_list(policy, rows), bare)
    scores = reference_scores(reference, Rows(rows), cache_dir=tmp_path, progress=None)
    np.testing.assert_allclose(scores, bare, rtol=1e-6)


def test_an_adapter_that_came_with_the_model_is_frozen_as_reference(make_llama, make_rows, tmp_path):
    rows = make_rows(3)
    policy = get_peft_model(make_llama(), LORA)
    shift(policy, 0.05)
    start = score_row_list(policy, rows)
    reference = choose_reference(policy, None, new_adapter=False)
    assert isinstance(reference, AdapterSnapshot)
    shift(policy, 0.2)
    moved = score_row_list(policy, rows)
    scores = reference_scores(reference, Rows(rows), cache_dir=tmp_path, progress=None)
    assert np.array_equal(scores, start)
    assert np.array_equal(score_row_list(policy, rows), moved), (
        "scoring the reference must not move the policy"
    )


def test_the_initial_policy_cannot_be_asked_once_it_moved(make_llama, make_rows, tmp_path):
    policy = make_llama()
    reference = choose_reference(policy, None, new_adapter=False)
    assert isinstance(reference, InitialPolicy)
    reference_scores(reference, Rows(make_rows(2)), cache_dir=tmp_path, progress=None)
    reference.moved = True
    with pytest.raises(ModelError, match="ref_model"):
        reference_scores(reference, Rows(make_rows(2)), cache_dir=tmp_path, progress=None)


def test_a_model_cannot_be_its_own_reference(make_llama):
    model = make_llama()
    with pytest.raises(ModelError, match="leave it out"):
        choose_reference(model, model, new_adapter=False)
    other = make_llama()
    assert isinstance(choose_reference(model, other, new_adapter=False), FrozenModel)
    assert not any(p.requires_grad for p in other.parameters())


def test_partitioned_weights_are_gathered_for_their_fingerprint(make_llama, monkeypatch):
    """DeepSpeed's ZeRO stage 3, played by a stand-in: a weight is empty except while it is gathered."""
    expected = weights_fingerprint(make_llama())
    model = make_llama()
    held = {}
    for number, parameter in enumerate(model.parameters()):
        parameter.ds_id = number
        held[number] = parameter.data
        parameter.data = torch.empty(0)

    @contextmanager
    def gathered(parameters):
        for parameter in parameters:
            parameter.data = held[parameter.ds_id]
        yield
        for parameter in parameters:
            parameter.data = torch.empty(0)

    stand_in = SimpleNamespace(zero=SimpleNamespace(GatheredParameters=gathered))
    monkeypatch.setitem(sys.modules, "deepspeed", stand_in)
    assert weights_fingerprint(model) == expected


def test_a_fingerprint_is_taken_once(make_llama):
    """Weights that are moved or sharded later must not be asked again."""
    reference = InitialPolicy(make_llama())
    before = reference.fingerprint()
    with torch.no_grad():
        reference.policy.model.norm.weight.zero_()  # pyright: ignore
    assert reference.fingerprint() == before
