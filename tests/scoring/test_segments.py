"""Segments against their definition by token pairs, and kernels for sequences of different lengths against masks."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distal.scoring.segments import Segments
from distal.scoring.varlen import attend_varlen

PROMPT_AND_ANSWERS = Segments((3, 2, 4, 5, 1, 1), (-1, 0, 0, -1, 3, 3))


@st.composite
def segments(draw):
    lengths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))
    return Segments(tuple(lengths), tuple(draw(st.integers(-1, k - 1)) for k in range(len(lengths))))


def sequences(s: Segments) -> list[list[int]]:
    """Places of the tokens that each segment's last token has before it, written out by hand."""
    starts = [sum(s.lengths[:k]) for k in range(len(s.lengths))]
    found: list[list[int]] = []
    for k, parent in enumerate(s.parents):
        own = list(range(starts[k], starts[k] + s.lengths[k]))
        found.append((found[parent] if parent >= 0 else []) + own)
    return found


@given(segments())
def test_a_token_reads_its_own_sequence_up_to_itself(s):
    expected = torch.zeros(s.n_tokens, s.n_tokens, dtype=torch.bool)
    positions = [0] * s.n_tokens
    for places, length in zip(sequences(s), s.lengths, strict=True):
        for rank in range(len(places) - length, len(places)):
            expected[places[rank], places[: rank + 1]] = True
            positions[places[rank]] = rank
    assert torch.equal(s.visible(), expected)
    assert s.position_ids().tolist() == positions
    assert s.n_positions == max(positions) + 1


def attention_by_mask(q, k, v, allowed):
    """The textbook, in float64: (heads, T, D), with as many key heads as query heads."""
    logits = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).masked_fill(~allowed, -math.inf)
    return logits.softmax(-1) @ v


def reference_kernel(  # noqa: PLR0913 - the signature of the kernels
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, enable_gqa
):
    """What kernels for different lengths document: masks aligned at the last query and the last key."""
    assert enable_gqa == (query.shape[1] != key.shape[1])
    assert max_q == cu_seq_q.diff().max()
    assert max_k == cu_seq_k.diff().max()
    left, right = window_size
    parts = []
    for s in range(len(cu_seq_q) - 1):
        q = query[cu_seq_q[s] : cu_seq_q[s + 1]].transpose(0, 1)
        k, v = (x[cu_seq_k[s] : cu_seq_k[s + 1]].transpose(0, 1) for x in (key, value))
        k, v = (x.repeat_interleave(q.shape[0] // x.shape[0], dim=0) for x in (k, v))
        aligned = torch.arange(q.shape[1])[:, None] + k.shape[1] - q.shape[1]
        keys = torch.arange(k.shape[1])
        allowed = keys <= aligned + right
        if left >= 0:
            allowed &= keys >= aligned - left
        logits = (q @ k.transpose(-1, -2) * scale).masked_fill(~allowed, -math.inf)
        parts.append((logits.softmax(-1) @ v).transpose(0, 1))
    return torch.cat(parts)


@pytest.mark.parametrize("window", [None, 1, 3, 4])
@pytest.mark.parametrize(
    "s", [PROMPT_AND_ANSWERS, Segments((4, 1, 3), (-1, -1, -1))], ids=["shared", "packed"]
)
def test_kernel_for_different_lengths_computes_the_masked_attention(s, window):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(1, heads, s.n_tokens, 8, generator=generator, dtype=torch.float64).requires_grad_()
        for heads in (4, 2, 2)
    )
    positions = s.position_ids()
    allowed = s.visible()
    if window is not None:
        allowed &= positions[:, None] - positions < window
    wide_k, wide_v = (x[0].repeat_interleave(2, dim=0) for x in (k, v))
    expected = attention_by_mask(q[0], wide_k, wide_v, allowed).transpose(0, 1)[None]
    found = attend_varlen(q, k, v, s.varlen_index(), scale=8**-0.5, window=window, kernel=reference_kernel)
    torch.testing.assert_close(found, expected)
    weights = torch.randn(found.shape, generator=generator, dtype=torch.float64)
    gradients = [
        torch.autograd.grad((x * weights).sum(), (q, k, v), retain_graph=True) for x in (found, expected)
    ]
    for got, right in zip(*gradients, strict=True):
        torch.testing.assert_close(got, right)
