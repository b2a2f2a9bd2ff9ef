"""Schedule-free optimizers: whoever looks at the model sees the averaged weights, which are their result."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import Trainer

__all__ = ["AveragingTrainer"]


class AveragingTrainer(Trainer):
    """A trainer that shows averaged weights wherever the model is evaluated, saved or handed over.

    Schedule-free optimizers take gradients at other weights than those they mean: their `eval` puts the average into
    the model, their `train`, which every training step calls, what the next gradient is taken at.
    """

    def show_averaged_weights(self) -> None:
        """Put them into the model, where the optimizer keeps any; calling it twice does no more than once."""
        optimizer: Any = self.optimizer
        if callable(getattr(optimizer, "eval", None)):
            optimizer.eval()

    def _save_checkpoint(self, model: nn.Module, trial: Any = None) -> None:
        self.show_averaged_weights()
        super()._save_checkpoint(model, trial)

    def _load_best_model(self) -> None:
        self.show_averaged_weights()  # afterwards it would change the weights that were loaded
        super()._load_best_model()
