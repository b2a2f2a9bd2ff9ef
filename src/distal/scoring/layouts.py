"""Layouts: how token rows become the tensors of one forward pass.

A layout answers two questions: what the model reads, and at which positions it predicts a completion token. All
else (which head, which sum) is the same for every layout.

Shape letters: B rows, T positions of the longest row, N completion tokens of all rows together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distal.types import TokenRow

__all__ = ["PaddedBatch", "pad_rows"]


@dataclass(frozen=True, slots=True)
class PaddedBatch:
    """Rows padded on the right to the longest of them.

    Attributes:
        input_ids: (B, T) token ids; the id at padded places is arbitrary and never read, because masks go by length.
        attention_mask: (B, T) True where a token stands.
        prediction_mask: (B, T) True at position t where the model, having read tokens 0..t, predicts a completion
            token. N entries are True.
        targets: (N,) the predicted tokens, row by row.
        is_padded: whether any place is padding; known on the host, so that asking costs no device synchronisation.
    """

    input_ids: Tensor
    attention_mask: Tensor
    prediction_mask: Tensor
    targets: Tensor
    is_padded: bool

    def sum_by_row(self, token_values: Tensor) -> Tensor:
        """Sum N per-token values within their rows: (N,) -> (B,); padded places count as zero.

        A masked scatter and a row sum: unlike an indexed addition it is deterministic on every device.
        """
        grid = torch.zeros(self.prediction_mask.shape, dtype=token_values.dtype, device=token_values.device)
        return grid.masked_scatter(self.prediction_mask, token_values).sum(dim=1)


def pad_rows(rows: Sequence[TokenRow], device: torch.device | str = "cpu") -> PaddedBatch:
    """Lay rows out as one padded batch.

    Args:
        rows: B >= 1 rows.
        device: where the tensors are put.

    Example:
        >>> from distal.types import TokenRow
        >>> row = TokenRow([5, 6, 7, 8], prompt_length=2, desirable=True, unit=0, source_row=0)
        >>> pad_rows([row]).targets.tolist()
        [7, 8]
    """
    if not rows:
        raise ValueError("pad_rows needs at least one row")
    lengths = torch.tensor([len(row.input_ids) for row in rows])
    prompts = torch.tensor([row.prompt_length for row in rows])
    input_ids = torch.nn.utils.rnn.pad_sequence(
        [torch.as_tensor(row.input_ids, dtype=torch.long) for row in rows], batch_first=True
    )
    positions = torch.arange(input_ids.shape[1])
    attention_mask = positions < lengths[:, None]
    # Position t predicts token t + 1, which belongs to the completion from the prompt's last token on.
    prediction_mask = (positions >= prompts[:, None] - 1) & (positions < lengths[:, None] - 1)
    targets = input_ids.roll(-1, dims=1)[prediction_mask]
    return PaddedBatch(
        input_ids.to(device),
        attention_mask.to(device),
        prediction_mask.to(device),
        targets.to(device),
        is_padded=bool(lengths.min() < lengths.max()),
    )
