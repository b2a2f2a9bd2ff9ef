"""What the Trainer counts of a batch, for a batch that is a list of token rows."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Trainer

__all__ = ["RowCountingTrainer"]


class RowCountingTrainer(Trainer):
    """A trainer that counts tokens and operations of rows."""

    def floating_point_ops(self, inputs: Any) -> int:
        """6 FLOP per parameter and token (forward and backward), as transformers estimates it."""
        tokens = sum(len(row.input_ids) for row in inputs)
        model: Any = self.model
        return 6 * tokens * int(model.num_parameters(exclude_embeddings=True))

    def _track_num_input_tokens(self, inputs: Any) -> None:
        if self.args.include_num_input_tokens_seen == "no":
            return
        tokens = torch.tensor(sum(len(row.input_ids) for row in inputs), device=self.args.device)
        gathered: Any = self.accelerator.gather(tokens)
        self.state.num_input_tokens_seen += int(gathered.sum().item())
