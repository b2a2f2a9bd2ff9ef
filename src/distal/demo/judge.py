"""An independent judge of film-review sentences: logistic regression on words and pairs of words.

It shares nothing with the language model: neither tokens nor weights nor the objective.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from distal.demo.snippets import Snippet
from distal.errors import DataError

__all__ = ["Judge", "train_judge"]

_WORD = re.compile(r"[a-z0-9]+(?:['-][a-z0-9]+)*|[!?]")
_FEWEST = 2  # snippets that a word or pair of words must occur in
_BIAS = 0  # feature that every text has


@dataclass(frozen=True, slots=True)
class Judge:
    """A trained classifier.

    Attributes:
        index: number of each known word or pair of words; 0 is the bias.
        weights: log-odds of "liked" that each adds, shape (features,).
    """

    index: dict[str, int]
    weights: Tensor

    def log_odds(self, texts: Sequence[str]) -> Tensor:
        """Log-odds that each text is a liked one, shape (n,)."""
        return _sums(self.weights, [_known(text, self.index) for text in texts])

    def share_liked(self, texts: Sequence[str]) -> float:
        """Share of the texts that are judged liked rather than disliked."""
        return float((self.log_odds(texts) > 0).double().mean())

    def accuracy(self, snippets: Sequence[Snippet]) -> float:
        """Share of labelled snippets that are judged right."""
        liked = torch.tensor([snippet.liked for snippet in snippets])
        return float(((self.log_odds([snippet.text for snippet in snippets]) > 0) == liked).double().mean())


def train_judge(snippets: Sequence[Snippet], *, penalty: float = 3e-6, steps: int = 40) -> Judge:
    """Fits the classifier by penalised maximum likelihood; there is nothing random in it.

    Features are the presence of words and of pairs of neighbouring words; a text's features are scaled to
    unit Euclidean length, so that long texts do not count more.

    Args:
        snippets: labelled training snippets.
        penalty: of the squared weights, against the mean log-loss.
        steps: iterations of L-BFGS.

    Raises:
        DataError: one of the labels is missing.

    Examples:
        >>> judge = train_judge([Snippet("a witty film", True), Snippet("a dull film", False)] * 2)
        >>> judge.share_liked(["witty", "so dull", "dull"])
        0.3333333333333333
    """
    if len({snippet.liked for snippet in snippets}) < 2:
        raise DataError(
            "the judge needs liked and disliked snippets to learn from, got only one of the labels"
        )
    counts = Counter(feature for snippet in snippets for feature in _features(snippet.text))
    kept = sorted(feature for feature, count in counts.items() if count >= _FEWEST)
    index = {feature: number for number, feature in enumerate(kept, start=_BIAS + 1)}
    texts = [_known(snippet.text, index) for snippet in snippets]
    liked = torch.tensor([float(snippet.liked) for snippet in snippets])
    weights = torch.zeros(len(index) + 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=steps, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        fit = functional.binary_cross_entropy_with_logits(_sums(weights, texts), liked)
        total = fit + penalty * weights.square().sum()
        total.backward()
        return total

    optimizer.step(loss)  # pyright: ignore[reportArgumentType]
    return Judge(index, weights.detach())


def _features(text: str) -> set[str]:
    """Words of a text, and pairs of neighbours joined by a blank."""
    words = _WORD.findall(text.lower())
    return set(words) | {f"{first} {second}" for first, second in zip(words, words[1:], strict=False)}


def _known(text: str, index: dict[str, int]) -> list[int]:
    return [_BIAS, *sorted(index[feature] for feature in _features(text) if feature in index)]


def _sums(weights: Tensor, texts: Iterable[list[int]]) -> Tensor:
    """Sum of each text's weights over the length of its feature vector."""
    lists = list(texts)
    lengths = torch.tensor([len(features) for features in lists])
    flat = torch.tensor([feature for features in lists for feature in features])
    scale = lengths.double().rsqrt().float().repeat_interleave(lengths)
    rows = torch.arange(len(lists)).repeat_interleave(lengths)
    return torch.zeros(len(lists)).index_add(0, rows, weights[flat] * scale)
