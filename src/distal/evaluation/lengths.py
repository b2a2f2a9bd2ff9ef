"""Rewards at equal lengths: two laws are given one distribution of lengths before they are compared.

Long completions have large log-ratios, of either sign, so that a difference in length alone moves reward quantiles.
Completions are put into strata of (nearly) equal length. With p_k and q_k the shares of stratum k among preferred and
other completions, each stratum gets the weight `pi_k ~ p_k q_k / (p_k + q_k)`, normalised to 1 (the overlap
weights of Li, Morgan and Zaslavsky 2018), and within it all samples weigh alike:

    U_len = sum_k pi_k U | k,    V_len = sum_k pi_k V | k.

Both laws then have the same distribution over strata; a stratum that only one side has counts nothing, so that the
statement is about lengths that both sides reach. What is left
of the influence of length is what differs within strata, and that is reported: the mean lengths after weighting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["FEWEST_IN_STRATUM", "Strata"]

FEWEST_IN_STRATUM = 10
"""Samples of each side that a stratum holds, unless it is made of a single length."""


@dataclass(frozen=True, slots=True)
class Strata:
    """Strata of equal or neighbouring lengths.

    Attributes:
        u: stratum of each u, from 0 in ascending order of length, shape (n,).
        v: stratum of each v, shape (m,).
        count: number of strata.
    """

    u: NDArray[np.intp]
    v: NDArray[np.intp]
    count: int

    @classmethod
    def of(cls, u: NDArray[np.integer], v: NDArray[np.integer], fewest: int = FEWEST_IN_STRATUM) -> Strata:
        """Cut lengths as finely as each stratum still holds `fewest` samples of both sides.

        Lengths that only one side reaches, below and above the range of the other, are strata of their own, which
        weigh nothing. From the shortest length that both reach on, a stratum is closed as soon as it holds enough;
        what is left over at the end joins the last one.

        Args:
            u: lengths of the first sample, shape (n,).
            v: lengths of the second sample, shape (m,).
            fewest: samples of each side per stratum.

        Examples:
            >>> strata = Strata.of(np.array([1, 1, 2, 3]), np.array([1, 2, 3, 3, 9]), fewest=1)
            >>> strata.u.tolist(), strata.v.tolist(), strata.count
            ([1, 1, 2, 3], [1, 2, 3, 3, 4], 5)
        """
        low, high = max(u.min(), v.min()), min(u.max(), v.max())
        values = np.unique(np.concatenate([u, v]))
        shared = values[(values >= low) & (values <= high)]
        on_u, on_v = (
            np.bincount(np.searchsorted(shared, side), minlength=shared.size)
            for side in (_within(u, low, high), _within(v, low, high))
        )
        ends: list[int] = []
        of_u, of_v = 0, 0
        for length, more_u, more_v in zip(shared.tolist(), on_u.tolist(), on_v.tolist(), strict=True):
            of_u, of_v = of_u + more_u, of_v + more_v
            if min(of_u, of_v) >= fewest:
                ends.append(length)
                of_u = of_v = 0
        # The first stratum lies below the range, the last above it. The last inside ends where the range does.
        edges = np.array([low - 1, *ends[:-1], high])
        return cls(np.searchsorted(edges, u), np.searchsorted(edges, v), edges.size + 1)

    def weights(
        self, on_u: NDArray[np.intp], on_v: NDArray[np.intp]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Weights that give both sides one distribution over the strata.

        Args:
            on_u: how often each u was drawn, shape (r, n).
            on_v: how often each v was drawn, shape (r, m).

        Returns:
            Weights of the same shapes, each row adding up to 1, or to 0 where no stratum has both sides.
        """
        in_u, in_v = self._sums(on_u, self.u), self._sums(on_v, self.v)
        p, q = in_u / on_u.sum(1, keepdims=True).clip(1), in_v / on_v.sum(1, keepdims=True).clip(1)
        shared = p * q / np.where(p + q > 0, p + q, 1.0)
        total = shared.sum(1, keepdims=True)
        shared /= np.where(total > 0, total, 1.0)
        each_u, each_v = shared / in_u.clip(1), shared / in_v.clip(1)
        return on_u * each_u[:, self.u], on_v * each_v[:, self.v]

    def _sums(self, counts: NDArray[np.intp], stratum: NDArray[np.intp]) -> NDArray[np.float64]:
        """Counts per stratum, shape (r, count)."""
        rows = counts.shape[0]
        flat = (stratum + self.count * np.arange(rows)[:, None]).ravel()
        sums: NDArray[Any] = np.bincount(flat, weights=counts.ravel(), minlength=rows * self.count)
        return sums.reshape(rows, self.count)


def _within(lengths: NDArray[np.integer], low: int, high: int) -> NDArray[np.integer]:
    """Those in a range, ends included."""
    return lengths[(lengths >= low) & (lengths <= high)]
