"""Layouts: how token rows become the tensors of one forward pass.

A layout says what the model reads, and at which places it predicts a completion token. All else (which head, which
sum) is the same for every layout, and so are scores and gradients, to rounding.

- `padded`: one row of tensors for each row, filled up to the longest.
- `packed`: all rows one after another, without padding; none sees another.
- `prefix_shared`: the same, and rows with the same prompt share its tokens: `[prompt, answer, answer, ...]`.

Shape letters: B rows and T columns of the tensors that the model reads, R rows that are scored, N scored completion
tokens of all of them together (`TokenRow.completion_mask`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import accumulate
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from distal.errors import DataError
from distal.scoring.batching import cut_by_count, cut_by_tokens, pack_by_tokens
from distal.scoring.laid_out import LaidOutBatch, laid_out_on
from distal.scoring.segments import Segments
from distal.scoring.targets import ids_of, stretches
from distal.types import TokenRow

__all__ = [
    "PACKED",
    "PADDED",
    "PREFIX_SHARED",
    "Layout",
    "Packed",
    "Padded",
    "PrefixShared",
    "pad_rows",
]

WORTH_SHARING = 8
"""Shortest prompt that is shared, tokens: below, attention in one more piece costs about as much as it saves."""


class Layout(Protocol):
    """A way to lay rows out, and to cut many of them into forward passes.

    `width` is the number of consecutive rows that make a unit: 2 for pairs, 1 for single rows.
    """

    name: str

    def lay_out(self, rows: Sequence[TokenRow], device: torch.device | str = "cpu") -> LaidOutBatch:
        """The tensors of one forward pass over at least one row."""
        ...

    def places(self, rows: Sequence[TokenRow]) -> int:
        """Token places of one forward pass over these rows, padding included: what memory and time follow."""
        ...

    def unit_places(self, rows: Sequence[TokenRow], width: int) -> list[int]:
        """Of those, the places of each unit, which lie together in the order of units.

        Only of layouts that are `separable`.
        """
        ...

    def separable(self, width: int) -> Layout:
        """The layout nearest to this one in which units have no place in common."""
        ...

    def cut_by_count(self, rows: Sequence[TokenRow], width: int, count: int) -> list[list[int]]:
        """Unit indices of each forward pass of `count` units, the longest first."""
        ...

    def cut_by_tokens(self, rows: Sequence[TokenRow], width: int, budget: int) -> list[list[int]]:
        """Unit indices of each forward pass of at most `budget` places, the longest first."""
        ...


class Padded:
    """Rows padded on the right to the longest of them."""

    name = "padded"

    def lay_out(self, rows: Sequence[TokenRow], device: torch.device | str = "cpu") -> LaidOutBatch:
        """See `Layout`."""
        _check(rows)
        input_ids = torch.nn.utils.rnn.pad_sequence([ids_of(row) for row in rows], batch_first=True)
        width = input_ids.shape[1]
        lengths = torch.tensor([len(row.input_ids) for row in rows])
        taken = torch.arange(width) < lengths[:, None]
        padded = bool(lengths.min() < width)
        # Filled with a token of the row: some models warn of pad tokens without a mask.
        filling = input_ids.gather(1, torch.tensor([[row.prompt_length] for row in rows]))
        input_ids = torch.where(taken, input_ids, filling)
        starts = [k * width + row.prompt_length - 1 for k, row in enumerate(rows)]
        predictions = stretches(starts, [row.completion_length for row in rows])
        return laid_out_on(device, rows, input_ids, taken if padded else None, predictions)

    def places(self, rows: Sequence[TokenRow]) -> int:
        """See `Layout`."""
        return len(rows) * max((len(row.input_ids) for row in rows), default=0)

    def unit_places(self, rows: Sequence[TokenRow], width: int) -> list[int]:
        """See `Layout`."""
        return [self.places(rows) // len(rows) * width] * (len(rows) // width)

    def separable(self, width: int) -> Padded:
        """See `Layout`."""
        return self

    def cut_by_count(self, rows: Sequence[TokenRow], width: int, count: int) -> list[list[int]]:
        """See `Layout`."""
        return cut_by_count(_longest(rows, width), count)

    def cut_by_tokens(self, rows: Sequence[TokenRow], width: int, budget: int) -> list[list[int]]:
        """See `Layout`."""
        return cut_by_tokens(_longest(rows, width), budget, rows_per_unit=width)


class Packed:
    """Rows one after another in a single row of tensors; positions start anew with each."""

    name = "packed"

    def lay_out(self, rows: Sequence[TokenRow], device: torch.device | str = "cpu") -> LaidOutBatch:
        """See `Layout`."""
        _check(rows)
        lengths = [len(row.input_ids) for row in rows]
        starts = [end - row.completion_length - 1 for end, row in zip(accumulate(lengths), rows, strict=True)]
        return _in_one_row(
            rows,
            [ids_of(row) for row in rows],
            Segments(tuple(lengths), (-1,) * len(rows)),
            stretches(starts, [row.completion_length for row in rows]),
            device,
        )

    def places(self, rows: Sequence[TokenRow]) -> int:
        """See `Layout`."""
        return sum(len(row.input_ids) for row in rows)

    def unit_places(self, rows: Sequence[TokenRow], width: int) -> list[int]:
        """See `Layout`."""
        return _totals(rows, width)

    def separable(self, width: int) -> Packed:
        """See `Layout`."""
        return self

    def cut_by_count(self, rows: Sequence[TokenRow], width: int, count: int) -> list[list[int]]:
        """See `Layout`."""
        return cut_by_count(_totals(rows, width), count)

    def cut_by_tokens(self, rows: Sequence[TokenRow], width: int, budget: int) -> list[list[int]]:
        """See `Layout`."""
        return pack_by_tokens(_totals(rows, width), budget)


@dataclass(frozen=True)
class PrefixShared:
    """Packed rows, where those with the same prompt tokens share them; answers do not see each other.

    Attributes:
        among: rows share a prompt only within stretches of so many consecutive rows; None for all rows.
        least: shortest prompt that is shared, tokens.
    """

    among: int | None = None
    least: int = WORTH_SHARING
    name = "prefix_shared"

    def lay_out(self, rows: Sequence[TokenRow], device: torch.device | str = "cpu") -> LaidOutBatch:
        """See `Layout`."""
        _check(rows)
        tokens: list[Tensor] = []
        parents: list[int] = []
        starts, counts = [0] * (2 * len(rows)), [0] * (2 * len(rows))
        place = 0
        for together in self._together(rows):
            shared, prompt = len(together) > 1, rows[together[0]].prompt_length
            begin, parent = place, -1
            if shared:
                parent, place = len(tokens), place + prompt
                tokens.append(ids_of(rows[together[0]])[:prompt])
                parents.append(-1)
            for i in together:
                # The end of the prompt predicts the first token of an answer, the answer itself the others.
                starts[2 * i] = begin + prompt - 1
                starts[2 * i + 1] = place if shared else begin + prompt
                counts[2 * i : 2 * i + 2] = [1, rows[i].completion_length - 1]
                tokens.append(ids_of(rows[i])[prompt if shared else 0 :])
                parents.append(parent)
                place += len(tokens[-1])
        segments = Segments(tuple(len(ids) for ids in tokens), tuple(parents))
        return _in_one_row(rows, tokens, segments, stretches(starts, counts), device)

    def places(self, rows: Sequence[TokenRow]) -> int:
        """See `Layout`."""
        saved = sum((len(g) - 1) * rows[g[0]].prompt_length for g in self._together(rows))
        return sum(len(row.input_ids) for row in rows) - saved

    def unit_places(self, rows: Sequence[TokenRow], width: int) -> list[int]:
        """See `Layout`."""
        return [self.places(rows[start : start + width]) for start in range(0, len(rows), width)]

    def separable(self, width: int) -> Layout:
        """See `Layout`."""
        return PrefixShared(width, self.least) if width > 1 else PACKED

    def cut_by_count(self, rows: Sequence[TokenRow], width: int, count: int) -> list[list[int]]:
        """See `Layout`."""
        clusters = self._clusters(rows, width)
        order = [u for k in _descending([max(c.sizes) for c in clusters]) for u in clusters[k].units]
        return [order[start : start + count] for start in range(0, len(order), count)]

    def cut_by_tokens(self, rows: Sequence[TokenRow], width: int, budget: int) -> list[list[int]]:
        """See `Layout`."""
        parts: list[list[int]] = []
        sizes: list[int] = []
        for cluster in self._clusters(rows, width):
            # Units with the same prompt stay together as far as the budget goes; each part has the prompt once.
            for k, (unit, size) in enumerate(zip(cluster.units, cluster.sizes, strict=True)):
                if k and sizes[-1] + size - cluster.prompt <= budget:
                    parts[-1].append(unit)
                    sizes[-1] += size - cluster.prompt
                else:
                    parts.append([unit])
                    sizes.append(size)
        return [[u for p in group for u in parts[p]] for group in pack_by_tokens(sizes, budget)]

    def _together(self, rows: Sequence[TokenRow]) -> list[list[int]]:
        """Indices of the rows that share each prompt, in the order of their first rows."""
        found: dict[object, list[int]] = {}
        for i, row in enumerate(rows):
            stretch = 0 if self.among is None else i // self.among
            key: object = i if row.prompt_length < self.least else (stretch, _prompt(row))
            found.setdefault(key, []).append(i)
        return list(found.values())

    def _clusters(self, rows: Sequence[TokenRow], width: int) -> list[_Cluster]:
        """Units that share one prompt with each other; a unit with several prompts shares none."""
        if self.among not in (None, width):
            raise ValueError("rows share prompts within units, or among all rows")
        found: dict[object, _Cluster] = {}
        for unit in range(len(rows) // width):
            members = rows[unit * width : (unit + 1) * width]
            groups = self._together(members)
            prompt = members[0].prompt_length
            alone = len(groups) > 1 or self.among is not None or prompt < self.least
            cluster = found.setdefault(
                unit if alone else _prompt(members[0]), _Cluster([], [], 0 if alone else prompt)
            )
            cluster.units.append(unit)
            cluster.sizes.append(
                sum(len(row.input_ids) for row in members)
                - sum((len(g) - 1) * members[g[0]].prompt_length for g in groups)
            )
        return list(found.values())


@dataclass(frozen=True, slots=True)
class _Cluster:
    """Units with one prompt: their numbers, their places when laid out alone, and the prompt's tokens."""

    units: list[int]
    sizes: list[int]
    prompt: int


PADDED = Padded()
PACKED = Packed()
PREFIX_SHARED = PrefixShared()


def pad_rows(rows: Sequence[TokenRow], device: torch.device | str = "cpu") -> LaidOutBatch:
    """Lay R >= 1 rows out as one padded batch on a device.

    Examples:
        >>> from distal.types import TokenRow
        >>> row = TokenRow([5, 6, 7, 8], prompt_length=2, desirable=True, unit=0, source_row=0)
        >>> pad_rows([row]).targets.tolist()
        [7, 8]
    """
    return PADDED.lay_out(rows, device)


def _in_one_row(
    rows: Sequence[TokenRow],
    tokens: Sequence[Tensor],
    segments: Segments,
    predictions: Tensor,
    device: torch.device | str,
) -> LaidOutBatch:
    return laid_out_on(device, rows, torch.cat(list(tokens))[None], None, predictions, segments)


def _check(rows: Sequence[TokenRow]) -> None:
    if not rows:
        raise ValueError("a layout needs at least one row")
    for row in rows:
        if not 1 <= row.prompt_length < len(row.input_ids):
            raise DataError(
                f"row {row.source_row}: {row.prompt_length} of {len(row.input_ids)} tokens are its prompt; prompt and "
                "completion need a token each. Begin with the begin-of-text token, or leave the row out."
            )


def _prompt(row: TokenRow) -> bytes:
    """Digest of a prompt's tokens: data sets have more prompts than should be kept as Python numbers."""
    tokens = np.asarray(row.input_ids[: row.prompt_length], dtype=np.int32)
    return blake2b(tokens.tobytes(), digest_size=16).digest()


def _lengths(rows: Sequence[TokenRow]) -> Sequence[int]:
    # A data set knows its lengths without reading its rows.
    known: Sequence[int] | None = getattr(rows, "lengths", None)
    return known if known is not None else [len(row.input_ids) for row in rows]


def _longest(rows: Sequence[TokenRow], width: int) -> list[int]:
    lengths = _lengths(rows)
    return [max(lengths[i : i + width]) for i in range(0, len(lengths), width)]


def _totals(rows: Sequence[TokenRow], width: int) -> list[int]:
    lengths = _lengths(rows)
    return [sum(lengths[i : i + width]) for i in range(0, len(lengths), width)]


def _descending(sizes: Sequence[int]) -> list[int]:
    return sorted(range(len(sizes)), key=lambda k: -sizes[k])
