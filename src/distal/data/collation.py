"""What a data loader does with the units of an optimizer batch: it keeps them as rows of tokens."""

from __future__ import annotations

from collections.abc import Iterable

from distal.types import TokenRow

__all__ = ["collate_units"]


def collate_units(units: Iterable[list[TokenRow]]) -> list[TokenRow]:
    """Flatten units into the list of their rows; nothing is padded, the layout of a forward pass comes later.

    Args:
        units: what a tokenised data set returns for the indices of one optimizer batch (or a rank's share).

    Returns:
        The rows, unit by unit; chosen before rejected when paired.

    Examples:
        >>> from distal.types import TokenRow
        >>> chosen, rejected = TokenRow([1, 2], 1, True, 0, 0), TokenRow([1, 3], 1, False, 0, 0)
        >>> [row.input_ids for row in collate_units([[chosen, rejected]])]
        [[1, 2], [1, 3]]
    """
    return [row for unit in units for row in unit]
