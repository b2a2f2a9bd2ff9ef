"""What a model server may cost, and what it has cost so far."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import Any

from distal.errors import ConfigError, ServiceError

__all__ = ["Budget", "BudgetLimits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetLimits:
    """Limits of one call of the program; None for no limit.

    Attributes:
        requests: HTTP requests, repeated ones included.
        tokens: tokens of prompts and answers together, as the server counts them.
        cost: money, in the unit of the prices.
        input_price: price of a million tokens of prompts.
        output_price: price of a million tokens of answers.
    """

    requests: int | None = None
    tokens: int | None = None
    cost: float | None = None
    input_price: float | None = None
    output_price: float | None = None

    def __post_init__(self) -> None:
        for name in ("requests", "tokens", "cost", "input_price", "output_price"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"{name} must be a number from 0 on; got {value}.")
        prices = (self.input_price, self.output_price)
        if self.cost is not None and None in prices:
            raise ConfigError(
                "max_cost needs the prices of a million tokens: give --input-price and --output-price."
            )
        if prices.count(None) == 1:
            raise ConfigError("give both prices, --input-price and --output-price, or neither.")


class Budget:
    """Counts requests, tokens and cost, and refuses the next request when a limit is reached.

    Requests that are already under way when a limit is reached are not called back: with N of them at once,
    tokens and cost may exceed their limits by what these N use. The number of requests is kept exactly.

    Examples:
        >>> budget = Budget(BudgetLimits(requests=1))
        >>> budget.reserve()
        >>> budget.reserve()
        Traceback (most recent call last):
            ...
        distal.errors.ServiceError: the budget of 1 requests is spent; ...
    """

    def __init__(self, limits: BudgetLimits | None = None) -> None:
        self.limits = limits or BudgetLimits()
        self.requests = 0
        self.input_tokens = 0
        self.output_tokens = 0
        self._uncounted = False
        self._lock = threading.Lock()

    @property
    def cost(self) -> float | None:
        """Cost so far, in the unit of the prices; None without prices."""
        limits = self.limits
        if limits.input_price is None or limits.output_price is None:
            return None
        return (self.input_tokens * limits.input_price + self.output_tokens * limits.output_price) / 1e6

    def reserve(self) -> None:
        """Count one more request.

        Raises:
            ServiceError: a limit is reached, or cannot be kept since the server counts no tokens.
        """
        with self._lock:
            limits, cost = self.limits, self.cost
            if self._uncounted and (limits.tokens is not None or limits.cost is not None):
                raise ServiceError(
                    "the server does not report how many tokens it used, so that a limit on tokens or cost cannot be "
                    "kept; limit the number of requests instead (--max-requests)."
                )
            if limits.requests is not None and self.requests >= limits.requests:
                raise _spent(f"{limits.requests} requests")
            if limits.tokens is not None and self.input_tokens + self.output_tokens >= limits.tokens:
                raise _spent(f"{limits.tokens} tokens")
            if limits.cost is not None and cost is not None and cost >= limits.cost:
                raise _spent(f"{limits.cost:g}")
            self.requests += 1

    def account(self, usage: object) -> None:
        """Add the tokens of one answer.

        Args:
            usage: what the server reports, with `prompt_tokens` and `completion_tokens`.
        """
        found: Any = usage if isinstance(usage, dict) else {}
        counts = [found.get("prompt_tokens"), found.get("completion_tokens")]
        whole = [count for count in counts if isinstance(count, int) and count >= 0]
        with self._lock:
            if len(whole) < 2:
                self._uncounted = True  # the answer itself is good; the next request will be refused
            else:
                self.input_tokens += whole[0]
                self.output_tokens += whole[1]

    def spent(self) -> dict[str, Any]:
        """Counts for the record of a result."""
        return {
            "requests": self.requests,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cost": self.cost,
        }


def _spent(limit: str) -> ServiceError:
    return ServiceError(
        f"the budget of {limit} is spent; every answer so far is kept: raise the limit and start again to go on "
        "from here."
    )
