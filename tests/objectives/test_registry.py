"""Names, options and facts about the objectives."""

from __future__ import annotations

import pytest

from distal.objectives import describe_objective, get_objective, objective_names
from tests.objectives.batches import random_pairs

each_name = pytest.mark.parametrize("name", objective_names())


def test_the_promised_names_exist():
    assert {"aot", "aot_unpaired", "dpo", "ipo", "kto", "hinge"} <= set(objective_names())


@each_name
def test_description_matches_the_objective(name: str):
    info, objective = describe_objective(name), get_objective(name)
    assert (info.name, info.needs, info.couples_batch) == (
        objective.name,
        objective.needs,
        objective.couples_batch,
    )
    assert set(info.options) <= set(dir(objective))
    assert all(line and not line.endswith(".") for line in info.options.values())
    assert "arXiv" in info.source
    assert (info.default_beta is None) == (info.beta_source is None)


@each_name
def test_default_beta_is_what_is_used(name: str):
    info = describe_objective(name)
    if info.default_beta is None:
        assert "beta" not in info.options
        return
    scores = random_pairs(5)
    default = get_objective(name)(scores).loss
    assert default == get_objective(name, beta=info.default_beta)(scores).loss
    assert default != get_objective(name, beta=1.1 * info.default_beta)(scores).loss


@each_name
def test_none_stands_for_the_default(name: str):
    options = dict.fromkeys(describe_objective(name).options)
    scores = random_pairs(5)
    assert get_objective(name, **options)(scores).loss == get_objective(name)(scores).loss


@each_name
def test_unknown_option(name: str):
    for value in (1.0, None):
        with pytest.raises(ValueError, match=f"option 'btea' is not used by objective '{name}'; .*Known: "):
            get_objective(name, btea=value)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        (
            "aot_unpiared",
            {},
            ValueError,
            "unknown objective 'aot_unpiared'; did you mean 'aot_unpaired'. Known: aot",
        ),
        ("DPO", {}, ValueError, "unknown objective 'DPO'; did you mean 'dpo'"),
        ("zzz", {}, ValueError, "unknown objective 'zzz'; Known: aot"),
        (3, {}, TypeError, "objective must be a name, got int"),
        (
            "aot",
            {"cost": "squared hinge"},
            ValueError,
            "unknown cost 'squared hinge'; did you mean 'squared_hinge'",
        ),
        ("aot", {"cost": 3.0}, TypeError, "cost must be a name or a callable on tensors, got float"),
        (
            "aot",
            {"cost": "hinge", "beta": 0.1},
            ValueError,
            "'beta' is not used by cost='hinge', got 0.1; set 'margin'",
        ),
        ("aot", {"margin": 0.1}, ValueError, "'margin' is not used by cost='logistic', got 0.1; set 'beta'"),
        (
            "aot",
            {"cost": abs, "margin": 0.1},
            ValueError,
            "'margin' is not used by a callable cost, got 0.1; put it",
        ),
        ("aot", {"beta": 0.0}, ValueError, "beta must be positive and finite"),
        ("aot", {"label_smoothing": 0.5}, ValueError, r"smoothing must lie in \[0, 0.5\), got 0.5"),
        (
            "aot",
            {"sort": "harder"},
            ValueError,
            "unknown sort 'harder'; did you mean 'hard'. Known: hard, soft",
        ),
        (
            "aot",
            {"soft_sort_strength": 1.0},
            ValueError,
            "'soft_sort_strength' is not used by sort='hard', got 1.0",
        ),
        (
            "aot",
            {"soft_sort_regularization": "l2"},
            ValueError,
            "'soft_sort_regularization' is not used by sort='hard'",
        ),
        (
            "aot",
            {"sort": "soft", "soft_sort_strength": -1.0},
            ValueError,
            "soft_sort_strength must be positive",
        ),
        (
            "aot",
            {"sort": "soft", "soft_sort_regularization": "kl"},
            ValueError,
            "unknown soft_sort_regularization 'kl'; Known: l2, entropic",
        ),
        ("aot", {"sort_group": 0}, ValueError, "sort_group must be at least 1, got 0"),
        ("aot", {"sort_group": 2.0}, TypeError, "sort_group must be a whole number, got float"),
        (
            "aot",
            {"sort_group_seed": 1},
            ValueError,
            "'sort_group_seed' is not used without sort_group, got 1",
        ),
        (
            "aot",
            {"sort_group": 2, "sort_group_seed": -1},
            ValueError,
            "sort_group_seed must be at least 0, got -1",
        ),
        (
            "aot",
            {"sort_group": 2, "sort_group_seed": "a"},
            TypeError,
            "sort_group_seed must be a whole number, got str",
        ),
        ("aot", {"label_smoothing": "0.1"}, TypeError, "smoothing must be a number, got str"),
        ("aot", {"quantile_weighting": ["0", "1"]}, TypeError, "low must be a number, got str"),
        ("aot", {"sort": 1}, TypeError, "sort must be one of hard, soft, got int"),
        (
            "aot",
            {"beat": 0.1},
            ValueError,
            "option 'beat' is not used by objective 'aot'; did you mean 'beta'. Known: cost",
        ),
        (
            "aot",
            {"sort_groups": 4},
            ValueError,
            "option 'sort_groups' is not used by objective 'aot'; did you mean 'sort_group'",
        ),
        (
            "ipo",
            {"label_smoothing": 0.1},
            ValueError,
            "option 'label_smoothing' is not used by objective 'ipo', only by aot, .*; Known: beta",
        ),
        ("sft", {"per_token": "yes"}, TypeError, "per_token must be True or False, got str"),
        ("kto", {"kl_baseline": 0}, TypeError, "kl_baseline must be one of batch, mismatched, none, got int"),
        (
            "aot",
            {"quantile_weighting": [0.5, 0.5]},
            ValueError,
            "a band of levels needs 0 <= low < high <= 1",
        ),
        ("aot", {"quantile_weighting": "tail"}, TypeError, "quantile_weighting must be a band .* got 'tail'"),
        (
            "aot2",
            {"quantile_weighting": [0.0, 0.5]},
            ValueError,
            "'quantile_weighting' is not used by objective 'aot2'",
        ),
        (
            "kto",
            {"kl_baseline": "batches"},
            ValueError,
            "unknown kl_baseline 'batches'; did you mean 'batch'",
        ),
        ("kto", {"desirable_weight": 0.0}, ValueError, "desirable_weight must be positive"),
        ("mix", {"parts": []}, ValueError, "parts must be a list of at least one mapping"),
        (
            "mix",
            {"parts": [{"weight": 1.0}]},
            ValueError,
            "each part of mix must be a mapping with the key 'objective'",
        ),
        ("mix", {"parts": [{"objective": "dpp"}]}, ValueError, "unknown objective 'dpp'; did you mean 'dpo'"),
        (
            "mix",
            {"parts": [{"objective": "dpo", "sort": "hard"}]},
            ValueError,
            "'sort' is not used by objective 'dpo'",
        ),
        (
            "mix",
            {"parts": [{"objective": "dpo", "weight": -1}]},
            ValueError,
            "weight must be positive .*'dpo'",
        ),
        ("dpo", {"beta": -1.0}, ValueError, "beta must be positive and finite"),
        ("dpo", {"label_smoothing": -0.1}, ValueError, r"smoothing must lie in \[0, 0.5\)"),
        ("dpo", {"sort": "hard"}, ValueError, "option 'sort' is not used by objective 'dpo'"),
        ("ipo", {"beta": 0.0}, ValueError, "beta must be positive and finite"),
        ("hinge", {"beta": "0.1"}, TypeError, "beta must be a number, got str"),
    ],
)
def test_bad_options(name: str, options: dict[str, object], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        get_objective(name, **options)
