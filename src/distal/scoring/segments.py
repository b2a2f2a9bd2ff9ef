"""Segments: stretches of tokens that lie one after another in one row, and which of them each one may read.

A segment without a parent is a sequence of its own. A segment with a parent continues it: its positions start where
the parent's end, and it reads the parent's tokens before its own. Siblings do not see each other. So

    [A]  [B]                    two packed sequences
    [P]  [C <- P]  [R <- P]     one prompt, two answers

and a segment of n tokens whose parents hold m attends to m + n keys, causally with both ends aligned at the last key:
its i-th token sees keys 0 ... m + i. That is a causal mask aligned at the bottom right, which attention kernels for
sequences of different lengths compute; nothing but the keys has to be gathered.

Shape letters: T tokens of all segments, S segments, K keys of all segments (a shared key counts each time).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

__all__ = ["KeyIndex", "Segments", "VarlenIndex"]


@dataclass(frozen=True, slots=True)
class KeyIndex:
    """Which of the T tokens each of the K keys is, and the other way round.

    Attributes:
        tokens: (K,) the token that each key is.
        own: (T,) for each token, the place of its key among those of its own segment.
        again: for the first segment that reads its parents' tokens, the second, ...: places of such keys, and their
            tokens, of which none occurs twice.
    """

    tokens: Tensor
    own: Tensor
    again: tuple[tuple[Tensor, Tensor], ...]


@dataclass(frozen=True, slots=True)
class VarlenIndex:
    """What attention over sequences of different lengths needs to know.

    Attributes:
        queries_end: (S + 1,) int32, where each segment's queries begin and end.
        keys_end: (S + 1,) int32, likewise of its keys.
        longest_query: tokens of the longest segment.
        longest_key: most keys of a segment.
        keys: None where keys and queries are the same tokens.
    """

    queries_end: Tensor
    keys_end: Tensor
    longest_query: int
    longest_key: int
    keys: KeyIndex | None

    @property
    def tensors(self) -> list[Tensor]:
        """All of them, in an order of their own."""
        keys = self.keys
        shared = [] if keys is None else [keys.tokens, keys.own, *(x for pair in keys.again for x in pair)]
        return [self.queries_end, self.keys_end, *shared]

    def with_tensors(self, tensors: Sequence[Tensor]) -> VarlenIndex:
        """The same index with other tensors, such as copies on a device, in the order of `tensors`."""
        queries_end, keys_end, *shared = tensors
        keys = None
        if shared:
            keys = KeyIndex(shared[0], shared[1], tuple(zip(shared[2::2], shared[3::2], strict=True)))
        return VarlenIndex(queries_end, keys_end, self.longest_query, self.longest_key, keys)


@dataclass(frozen=True)
class Segments:
    """Segments of one row.

    Attributes:
        lengths: tokens of each segment, at least 1.
        parents: index of an earlier segment that each one continues, -1 for none.

    Examples:
        >>> segments = Segments((3, 2, 1), (-1, 0, 0))  # a prompt and two answers
        >>> segments.position_ids().tolist()
        [0, 1, 2, 3, 4, 3]
        >>> segments.visible()[5].tolist()  # the second answer does not see the first
        [True, True, True, False, False, True]
    """

    lengths: tuple[int, ...]
    parents: tuple[int, ...]

    @property
    def n_tokens(self) -> int:
        """Tokens of all segments, T."""
        return sum(self.lengths)

    @cached_property
    def chains(self) -> tuple[tuple[int, ...], ...]:
        """For each segment those that it reads, in order of position, itself last."""
        found: list[tuple[int, ...]] = []
        for segment, parent in enumerate(self.parents):
            found.append((*(found[parent] if parent >= 0 else ()), segment))
        return tuple(found)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Position of each segment's first token: how many tokens it reads from its parents."""
        return tuple(sum(self.lengths[k] for k in chain[:-1]) for chain in self.chains)

    @cached_property
    def n_positions(self) -> int:
        """The largest position, plus one."""
        return max(offset + length for offset, length in zip(self.offsets, self.lengths, strict=True))

    def position_ids(self) -> Tensor:
        """(T,) position of each token in its sequence."""
        return torch.cat([torch.arange(o, o + n) for o, n in zip(self.offsets, self.lengths, strict=True)])

    def visible(self) -> Tensor:
        """(T, T) bool, whether token i (row) may read token j (column) in plain causal attention.

        For tests and for reading: T^2 entries, which no layout needs.
        """
        owner = torch.repeat_interleave(torch.arange(len(self.lengths)), torch.tensor(self.lengths))
        reads = torch.zeros(len(self.lengths), len(self.lengths), dtype=torch.bool)
        for segment, chain in enumerate(self.chains):
            reads[segment, list(chain)] = True
        positions = self.position_ids()
        return reads[owner[:, None], owner] & (positions <= positions[:, None])

    def varlen_index(self) -> VarlenIndex:
        """The same as lengths and gathered keys, on the host; see `VarlenIndex`."""
        counts = [offset + length for offset, length in zip(self.offsets, self.lengths, strict=True)]
        return VarlenIndex(
            torch.tensor(_ends(self.lengths), dtype=torch.int32),
            torch.tensor(_ends(counts), dtype=torch.int32),
            max(self.lengths),
            max(counts),
            self._key_index() if any(parent >= 0 for parent in self.parents) else None,
        )

    def _key_index(self) -> KeyIndex:
        starts, tokens, own = _ends(self.lengths), list[Tensor](), list[Tensor]()
        again: list[tuple[list[Tensor], list[Tensor]]] = []
        readers = [0] * len(self.lengths)
        place = 0
        for chain in self.chains:
            for k in chain:
                tokens.append(torch.arange(starts[k], starts[k + 1]))
                places = torch.arange(place, place + self.lengths[k])
                place += self.lengths[k]
                if k == chain[-1]:
                    own.append(places)
                    continue
                if readers[k] == len(again):
                    again.append(([], []))
                for found, part in zip(again[readers[k]], (places, tokens[-1]), strict=True):
                    found.append(part)
                readers[k] += 1
        joined = tuple((torch.cat(places), torch.cat(read)) for places, read in again)
        return KeyIndex(torch.cat(tokens), torch.cat(own), joined)


def _ends(lengths: Sequence[int]) -> list[int]:
    return [0, *accumulate(lengths)]
