"""One-dimensional optimal transport and stochastic dominance: tensors only, no language models.

Costs of a quantile gap, the transport cost between two samples and its plan, sorting, quantiles, and the
violation ratio that says how far one sample is from dominating the other. Imports torch and nothing of
Distal.
"""

from __future__ import annotations

from distal.transport.costs import (
    Cost,
    HingeCost,
    LeastSquaresCost,
    LogisticCost,
    SmoothedCost,
    SquaredHingeCost,
)
from distal.transport.dominance import violation_ratio
from distal.transport.levels import Distortion, QuantileBand
from distal.transport.potentials import dual_potentials
from distal.transport.resampling import bootstrap_violation_ratio
from distal.transport.soft_sorting import soft_sort
from distal.transport.solver import TransportPlan, transport_cost, transport_plan
from distal.transport.sorting import hard_sort, quantile_function, quantile_gap
from distal.transport.testing import DominanceTest, dominance_test

__all__ = [
    "Cost",
    "Distortion",
    "DominanceTest",
    "HingeCost",
    "LeastSquaresCost",
    "LogisticCost",
    "QuantileBand",
    "SmoothedCost",
    "SquaredHingeCost",
    "TransportPlan",
    "bootstrap_violation_ratio",
    "dominance_test",
    "dual_potentials",
    "hard_sort",
    "quantile_function",
    "quantile_gap",
    "soft_sort",
    "transport_cost",
    "transport_plan",
    "violation_ratio",
]
