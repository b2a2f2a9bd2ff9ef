"""Segments against their definition by token pairs, and kernels for sequences of different lengths against masks."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distal.scoring.segments import Segments
from distal.scoring.varlen import attend_varlen, fitted_kernel

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


def attention_by_lengths(query, key, value, cu_seq_q, cu_seq_k, scale, window_size):
    """What kernels for different lengths document: masks aligned at the last query and the last key."""
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


def of_version_2_10(  # noqa: PLR0913 - the signature of PyTorch 2.10
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False, return_aux=None
):
    """The signature of PyTorch 2.10: neither windows nor a scale."""
    raise AssertionError("it cannot do what is needed")


def of_version_2_11(  # noqa: PLR0913 - the signature of PyTorch 2.11
    query,
    key,
    value,
    cu_seq_q,
    cu_seq_k,
    max_q,
    max_k,
    *,
    return_aux=None,
    scale=None,
    window_size=(-1, -1),
):
    """As many key heads as query heads, as its documentation has it."""
    assert query.shape[1] == key.shape[1] == value.shape[1]
    assert (max_q, max_k) == (cu_seq_q.diff().max(), cu_seq_k.diff().max())
    return attention_by_lengths(query, key, value, cu_seq_q, cu_seq_k, scale, window_size)


def of_version_2_12(  # noqa: PLR0913 - the signature of PyTorch 2.12 and 2.13
    query,
    key,
    value,
    cu_seq_q,
    cu_seq_k,
    max_q,
    max_k,
    *,
    return_aux=None,
    scale=None,
    window_size=(-1, -1),
    enable_gqa=False,
    seqused_k=None,
    block_table=None,
    num_splits=None,
):
    """Fewer key heads where that is asked for."""
    assert enable_gqa or query.shape[1] == key.shape[1]
    assert (max_q, max_k) == (cu_seq_q.diff().max(), cu_seq_k.diff().max())
    return attention_by_lengths(query, key, value, cu_seq_q, cu_seq_k, scale, window_size)


def test_a_version_without_windows_has_no_kernel():
    assert fitted_kernel(of_version_2_10) is None


@pytest.mark.parametrize("key_heads", [4, 2, 1])
@pytest.mark.parametrize("version", [of_version_2_11, of_version_2_12])
@pytest.mark.parametrize("window", [None, 1, 3, 4])
@pytest.mark.parametrize(
    "s", [PROMPT_AND_ANSWERS, Segments((4, 1, 3), (-1, -1, -1))], ids=["shared", "packed"]
)
def test_kernel_for_different_lengths_computes_the_masked_attention(s, window, version, key_heads):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(1, heads, s.n_tokens, 8, generator=generator, dtype=torch.float64).requires_grad_()
        for heads in (4, key_heads, key_heads)
    )
    positions = s.position_ids()
    allowed = s.visible()
    if window is not None:
        allowed &= positions[:, None] - positions < window
    wide_k, wide_v = (x[0].repeat_interleave(4 // key_heads, dim=0) for x in (k, v))
    expected = attention_by_mask(q[0], wide_k, wide_v, allowed).transpose(0, 1)[None]
    kernel = fitted_kernel(version)
    assert kernel is not None
    found = attend_varlen(q, k, v, s.varlen_index(), scale=8**-0.5, window=window, kernel=kernel)
    torch.testing.assert_close(found, expected)
    weights = torch.randn(found.shape, generator=generator, dtype=torch.float64)
    gradients = [
        torch.autograd.grad((x * weights).sum(), (q, k, v), retain_graph=True) for x in (found, expected)
    ]
    for got, right in zip(*gradients, strict=True):
        torch.testing.assert_close(got, right)


@pytest.mark.parametrize("version", [of_version_2_11, of_version_2_12])
def test_a_prompt_that_many_answers_read_has_a_gradient_that_is_summed_in_float32(version):
    """In bfloat16 a sum over 400 answers, one after another, would be off by several percent."""
    answers = 400
    s = Segments((4, *(1,) * answers), (-1, *(0,) * answers))
    generator = torch.Generator().manual_seed(0)
    exact = [torch.rand(1, 1, s.n_tokens, 8, generator=generator).bfloat16() for _ in range(3)]
    kernel = fitted_kernel(version)
    assert kernel is not None
    gradients = []
    for dtype in (torch.bfloat16, torch.float64):
        q, k, v = (x.detach().to(dtype).requires_grad_() for x in exact)
        index = s.varlen_index()
        attend_varlen(q, k, v, index, scale=8**-0.5, window=None, kernel=kernel).sum().backward()
        gradients.append(v.grad)
    torch.testing.assert_close(gradients[0].double(), gradients[1], rtol=1e-2, atol=0)
