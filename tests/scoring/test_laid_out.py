"""What goes to the device with a micro-batch: everything, at once, so that no pass waits for it.

The device of these tests is `meta`, which knows shapes only: asking it for a value is an error there, and costs a
wait elsewhere.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import masking_utils

from distal.scoring import PACKED, PADDED, PrefixShared, attention, score_rows, weighted_score
from distal.scoring.transfer import integers_to
from tests.scoring.architectures import answers_to, random_rows

LAYOUTS = [PADDED, PACKED, PrefixShared(least=1)]
ROWS = random_rows()


class Seen(TorchDispatchMode):
    """Counts copies from the host to another device, and what waits on a GPU but is not refused here."""

    def __init__(self):
        super().__init__()
        self.copies = self.waits = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_):
            source = args[1] if func.overloadpacket is torch.ops.aten.copy_ else args[0]
            self.copies += source.device.type == "cpu" != found.device.type
        # Its backward pass is a masked selection, which tells the host how many it selects.
        self.waits += func.overloadpacket is torch.ops.aten.masked_scatter
        return found


def masked(rows):
    """Half of the rows with a mask over their completion tokens."""
    random = Random(0)
    masks = [[True] + [random.random() < 0.5 for _ in range(row.completion_length - 1)] for row in rows]
    return [
        replace(row, completion_mask=mask) if k % 2 else row
        for k, (row, mask) in enumerate(zip(rows, masks, strict=True))
    ]


@pytest.mark.parametrize("rows", [ROWS, masked(ROWS)], ids=["whole", "masked"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_a_pass_forward_and_back_waits_for_nothing_and_copies_once(layout, rows, make_llama, monkeypatch):
    # Where no mask is given, transformers itself asks once whether a row holds several sequences.
    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", lambda _positions: None)
    model = make_llama().to("meta")
    for pass_over in (score_rows, weighted):
        with Seen() as seen:
            pass_over(model, rows, layout).sum().backward()
        assert (seen.waits, seen.copies) == (0, 1)


def weighted(model, rows, layout):
    return weighted_score(model, rows, torch.ones(len(rows), device="meta"), layout)


@pytest.mark.parametrize("layout", LAYOUTS[1:], ids=lambda layout: layout.name)
def test_attention_in_one_call_waits_for_nothing_either(layout, make_llama, monkeypatch):
    """With a kernel of the right shapes for sequences of different lengths."""
    calls = 0

    def kernel(query, key, value, *lengths: Any, enable_gqa, **given):
        assert all(x.device.type == "meta" and x.dtype == torch.int32 for x in lengths[:2])
        nonlocal calls
        calls += 1
        return query + key.sum() + value.sum()

    monkeypatch.setattr(attention, "has_varlen_kernel", lambda device, dtype: True)
    monkeypatch.setattr(attention, "varlen_kernel", lambda: kernel)
    model = make_llama().to("meta")
    with Seen() as seen:
        score_rows(model, ROWS, layout).sum().backward()
    assert (seen.waits, seen.copies) == (0, 1)
    assert calls == model.config.num_hidden_layers


def test_what_waits_is_refused_or_seen():
    values = torch.ones(3, device="meta")
    for ask in (values.sum().item, values.nonzero, lambda: values[values > 0]):
        with pytest.raises((RuntimeError, NotImplementedError)):
            ask()
    with Seen() as seen:
        values.masked_scatter(values > 0, torch.ones(3).to("meta"))
        values.copy_(torch.ones(3))
    assert (seen.waits, seen.copies) == (1, 2)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_have_the_bits_of_a_masked_scatter(seed, dtype):
    """Scores that were cached before stay what they are."""
    random = Random(seed)
    rows = answers_to([1, 5], *([3] * random.randrange(1, 200) for _ in range(random.randrange(1, 20))))
    batch = PADDED.lay_out(rows)
    values = torch.randn(len(batch.targets), generator=torch.Generator().manual_seed(seed), dtype=dtype)
    values.requires_grad_()
    counts = torch.tensor([row.completion_length for row in rows])
    taken = torch.arange(int(counts.max())) < counts[:, None]
    expected = torch.zeros(taken.shape, dtype=dtype).masked_scatter(taken, values).sum(dim=1)
    found = batch.sum_by_row(values)
    assert torch.equal(found, expected)
    weights = torch.randn(len(rows), generator=torch.Generator().manual_seed(seed), dtype=dtype)
    gradients = [torch.autograd.grad((x * weights).sum(), values)[0] for x in (found, expected)]
    assert torch.equal(*gradients)


def test_integers_keep_shapes_and_types_on_the_way():
    sent = [torch.zeros(2, 3, dtype=torch.bool), torch.zeros(4, dtype=torch.int32), torch.zeros(1, 0).long()]
    arrived = integers_to("meta", sent)
    assert [(x.shape, x.dtype, x.device.type) for x in arrived] == [(x.shape, x.dtype, "meta") for x in sent]
