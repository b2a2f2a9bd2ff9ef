"""Learning curve of the empirical minimiser (Corollary 1): excess cost against the number of training samples.

A log-linear policy over K = 8 answers with d = 4 features per answer, reference uniform: the reward of answer
y to prompt x is `theta . f(x, y) - log mean_y' exp(theta . f(x, y'))`. Preferred answers are drawn from a
policy of the same class, the others from the reference. For each n the cost of n preferred and n other
samples is minimised over the ball |theta| <= 3, and the minimiser is judged on 200,000 fresh samples of each.

Corollary 1 bounds the excess by order n^(-1/2), uniformly over policy classes. The gap between training and
test cost has that rate; the excess of the minimiser of a smooth class of fixed dimension falls faster, as
1/n.

    python benchmarks/theory/learning_curve.py
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from common import generator, loglog, save, slope, table
from torch import Tensor

from distal.transport import Cost, LogisticCost, SquaredHingeCost, transport_cost

ANSWERS, FEATURES, RADIUS, TEST = 8, 4, 3.0, 200_000
SIZES = [25, 50, 100, 200, 400, 800, 1600]
REPETITIONS = 24
COSTS: dict[str, Cost] = {
    "logistic, beta 1": LogisticCost(1.0),
    "squared hinge, margin 1": SquaredHingeCost(1.0),
}
TRUE = torch.tensor([1.0, -0.5, 0.5, 0.0], dtype=torch.float64)

Sample = tuple[Tensor, Tensor]
"""Features of all answers, shape (n, K, d), and the answers given, shape (n,)."""


def draw(n: int, preferred: bool, random: torch.Generator) -> Sample:
    """Prompts with one answer each."""
    features = torch.randn(n, ANSWERS, FEATURES, dtype=torch.float64, generator=random)
    scores = features @ TRUE if preferred else torch.zeros(n, ANSWERS, dtype=torch.float64)
    return features, torch.multinomial(scores.softmax(-1), 1, generator=random)[:, 0]


def rewards(theta: Tensor, sample: Sample) -> Tensor:
    """Log-ratio of policy to uniform reference at the answers given, shape (n,)."""
    features, answer = sample
    scores = features @ theta
    log_ratio = scores.log_softmax(-1) + torch.log(torch.tensor(float(ANSWERS)))
    return log_ratio.gather(1, answer[:, None])[:, 0]


def minimise(loss: Callable[[Tensor], Tensor]) -> Tensor:
    """Minimiser over the ball, by L-BFGS on a parameter that is pulled back to the ball."""
    free = torch.zeros(FEATURES, dtype=torch.float64).requires_grad_()
    optimizer = torch.optim.LBFGS([free], max_iter=80, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def ball(x: Tensor) -> Tensor:
        norm = x.norm().clamp_min(1e-12)
        return x * (RADIUS * torch.tanh(norm / RADIUS) / norm)

    def closure() -> float:
        optimizer.zero_grad()
        value = loss(ball(free))
        value.backward()
        return float(value.detach())

    free.data += 1e-3
    optimizer.step(closure)
    return ball(free).detach()


def main() -> None:
    """Learning curves of both costs."""
    test = draw(TEST, True, generator(1)), draw(TEST, False, generator(2))
    rows: list[list[object]] = []
    curves: dict[str, list[float]] = {}
    rates: dict[str, float] = {}
    for name, cost in COSTS.items():

        def judged(theta: Tensor, cost: Cost = cost) -> Tensor:
            return transport_cost(rewards(theta, test[0]), rewards(theta, test[1]), cost)

        best = float(judged(minimise(judged)))
        excess, gap = [], []
        for n in SIZES:
            found = [_repetition(n, seed, cost, judged) for seed in range(REPETITIONS)]
            excess.append(sum(on_test - best for on_test, _ in found) / REPETITIONS)
            gap.append(sum(abs(on_test - on_train) for on_test, on_train in found) / REPETITIONS)
            rows.append([name, n, best, excess[-1], gap[-1]])
        curves |= {f"{name}, excess": excess, f"{name}, |test - train|": gap}
        rates |= {f"{name}, excess": slope(SIZES, excess), f"{name}, gap": slope(SIZES, gap)}
    header = ["cost", "n", "best test cost", "mean excess", "mean |test - train|"]
    print(table(header, rows))
    print("slopes:", {key: round(value, 2) for key, value in rates.items()})
    figure = loglog(SIZES, curves, xlabel="training samples of each class, n", ylabel="cost")
    save(
        "learning_curve",
        {"repetitions": REPETITIONS, "header": header, "rows": rows, "slopes": rates},
        figure,
    )


def _repetition(n: int, seed: int, cost: Cost, judged: Callable[[Tensor], Tensor]) -> tuple[float, float]:
    """Test and training cost of the minimiser on one training set."""
    random = generator(1000 * n + seed)
    train = draw(n, True, random), draw(n, False, random)

    def loss(theta: Tensor) -> Tensor:
        return transport_cost(rewards(theta, train[0]), rewards(theta, train[1]), cost)

    theta = minimise(loss)
    return float(judged(theta)), float(loss(theta))


if __name__ == "__main__":
    main()
