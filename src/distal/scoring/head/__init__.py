"""The language-model head: from hidden states to log-probabilities of the tokens that follow.

- `transform`: what models do to their logits (scale, soft cap), as a value.
- `tiles`: log-probabilities and their gradients, a tile of tokens at a time.
- `choice`: which of the ways to compute them costs least, and fits.
- `access`: whether a model's head may be computed here instead of by the model, and how its input is had.
"""

from __future__ import annotations

from distal.scoring.head.access import head_of, plain_head, states_before_head
from distal.scoring.head.choice import head_log_probs, weighted_sum
from distal.scoring.head.tiles import token_log_probs
from distal.scoring.head.transform import IDENTITY, LogitTransform

__all__ = [
    "IDENTITY",
    "LogitTransform",
    "head_log_probs",
    "head_of",
    "plain_head",
    "states_before_head",
    "token_log_probs",
    "weighted_sum",
]
