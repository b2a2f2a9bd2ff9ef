"""The oracle of the first law: all rows in one forward pass, plain autograd through the objective, no engine."""

from __future__ import annotations

from functools import partial

import torch

from distal.objectives import SequenceScores, get_objective
from distal.scoring import score_rows
from distal.training import MicroBatchLimit, WholeBatchEngine
from distal.types import DataKind

OBJECTIVES = {
    "aot": partial(get_objective, "aot", beta=0.1),
    "aot squared hinge": partial(get_objective, "aot", cost="squared_hinge", margin=3.0),
    "aot hinge": partial(get_objective, "aot_unpaired", cost="hinge", margin=0.0),
    "aot_unpaired": partial(get_objective, "aot_unpaired", beta=0.1),
    "aot soft": partial(get_objective, "aot", beta=0.1, sort="soft", soft_sort_strength=0.5),
    "aot lower tail": partial(get_objective, "aot", beta=0.1, quantile_weighting=[0.0, 0.3]),
    "aot in groups": partial(get_objective, "aot", beta=0.1, sort_group=3),
    "aot2": partial(get_objective, "aot2", beta=0.1),
    "dpo": partial(get_objective, "dpo", beta=0.1),
    "ipo": partial(get_objective, "ipo"),
    "hinge": partial(get_objective, "hinge", beta=0.2),
    "kto": partial(get_objective, "kto"),
    "mix": partial(
        get_objective,
        "mix",
        parts=[{"objective": "aot"}, {"objective": "sft", "weight": 0.1, "per_token": True}],
    ),
}
LIMITS = {
    "1 unit": MicroBatchLimit(units=1),
    "3 units": MicroBatchLimit(units=3),
    "60 tokens": MicroBatchLimit(tokens=60),
    "all": MicroBatchLimit(units=100),
}
KINDS: dict[bool, DataKind] = {True: "paired", False: "unpaired"}


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def sequence_scores(rows, policy, paired):
    reference = torch.tensor([row.reference_score for row in rows], dtype=policy.dtype)
    if not paired:
        desirable = torch.tensor([row.desirable for row in rows])
        return SequenceScores.from_samples(policy, reference, desirable)
    lengths = torch.tensor([row.scored_length for row in rows[0::2]])
    return SequenceScores.from_pairs(
        policy[0::2], policy[1::2], reference[0::2], reference[1::2], chosen_lengths=lengths
    )


def plain_autograd(model, rows, objective, paired):
    """Loss and gradients with nothing cut up."""
    model.zero_grad()
    loss = objective(sequence_scores(rows, score_rows(model, rows), paired)).loss
    loss.backward()
    return loss.detach(), gradients(model)


def engine_step(model, rows, objective, paired, limit, **options):
    model.zero_grad()
    output = WholeBatchEngine(objective, KINDS[paired], limit, **options).step(model, rows)
    return output.loss, gradients(model)


def room_for_half(model, rows, objective, paired, limit, **options):
    """A budget in which `deferred` has room for about half of the batch's units, beside the graph of a micro-batch."""
    engine = WholeBatchEngine(
        objective, KINDS[paired], limit, strategy="deferred", memory_budget=2**40, **options
    )
    units = engine.kept_bytes(model, rows)
    settled = engine.settled()
    assert settled is not None
    return settled.kept - units // 2


def assert_same(got, expected, tolerance, where=""):
    (loss, grads), (expected_loss, expected_grads) = got, expected
    torch.testing.assert_close(loss, expected_loss, rtol=tolerance, atol=tolerance, msg=where or None)
    assert grads.keys() == expected_grads.keys(), where
    scale = max(g.abs().max().item() for g in expected_grads.values())
    assert scale > 0, where
    for name, gradient in grads.items():
        off = (gradient - expected_grads[name]).abs().max().item()
        assert off <= tolerance * scale, f"{where} {name} is off by {off / scale:.2g}"
