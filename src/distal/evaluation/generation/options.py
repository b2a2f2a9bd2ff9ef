"""How answers are drawn, whichever engine draws them."""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, dataclass
from typing import Any

from distal.errors import ConfigError

__all__ = ["Generation", "SamplingOptions", "cut_at_stop", "row_seed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingOptions:
    """How answers are drawn.

    Attributes:
        max_new_tokens: where an answer that does not end is cut off.
        temperature: of the softmax; 0 takes the most probable token each time.
        top_p: least probability mass of the most probable tokens that are drawn from.
        top_k: number of most probable tokens that are drawn from; 0 for all.
        stop: strings that end an answer; they and what follows are cut off.
        stop_tokens: tokens that end an answer, beside the model's own end-of-text tokens.
        seed: of the draws.
    """

    max_new_tokens: int = 1024
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    stop_tokens: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens must be at least 1; got {self.max_new_tokens}.")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ConfigError(f"temperature must be a number from 0 on; got {self.temperature}.")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p must lie above 0 and at most at 1; got {self.top_p}.")
        if self.top_k < 0:
            raise ConfigError(f"top_k must be at least 0; got {self.top_k}.")
        if "" in self.stop or "" in self.stop_tokens:
            raise ConfigError("stop and stop_tokens must hold no empty string.")
        if self.temperature == 0 and (self.top_p < 1 or self.top_k > 0):
            raise ConfigError(
                "top_p and top_k have no effect at temperature 0; leave them out, or give a temperature."
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"stop": list(self.stop), "stop_tokens": list(self.stop_tokens)}


@dataclass(frozen=True, slots=True)
class Generation:
    """One answer.

    Attributes:
        text: what it says, without special tokens and stop strings; may be empty.
        finish: `stop` where it ended by itself, `length` where it was cut off, or the server's own word.
        tokens: tokens drawn, an end-of-text token included; None where the engine does not say.
    """

    text: str
    finish: str
    tokens: int | None = None


def row_seed(seed: int, prompt: str, *, bits: int = 63) -> int:
    """Seed of one prompt's draws, from nothing but the seed of all and the prompt itself.

    Examples:
        >>> row_seed(0, "Hi") == row_seed(0, "Hi"), row_seed(0, "Hi") == row_seed(1, "Hi")
        (True, False)
    """
    digest = hashlib.sha256(f"{seed}|{prompt}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - bits)


def cut_at_stop(text: str, stop: tuple[str, ...]) -> tuple[str, bool]:
    """A text up to the first of the stop strings, and whether one was there.

    Examples:
        >>> cut_at_stop("yes### no", ("###", "no"))
        ('yes', True)
    """
    places = [place for word in stop if (place := text.find(word)) >= 0]
    return (text[: min(places)], True) if places else (text, False)
