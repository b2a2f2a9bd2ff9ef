"""Rows with their scores: what every statement about a run is made of."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distal.errors import ConfigError, DataError
from distal.evaluation.slices import Attributes, binned
from distal.types import DataKind, RowSource, TokenRow

__all__ = ["BUILT_IN", "RowFacts", "ScoredRows", "attribute_name"]

_FEWEST_PROMPT_TOKENS = 2
"""A prompt of one token is an opening mark that all rows share, and says nothing about what belongs together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFacts:
    """What a data set says of its rows, beside their scores; taken row by row, never all of them at a time.

    Attributes:
        desirable: whether each row is a preferred response, (rows,).
        prompts: label of each row's prompt, (rows,).
        completion_lengths: tokens that are scored, (rows,).
        prompt_lengths: tokens, (rows,).
        reference: reference scores that the rows carry, nats, NaN where they carry none, (rows,).
        fingerprint: the data set's own, or one of the same meaning.
    """

    desirable: NDArray[np.bool_]
    prompts: NDArray[Any]
    completion_lengths: NDArray[np.int64]
    prompt_lengths: NDArray[np.int64]
    reference: NDArray[np.float64]
    fingerprint: str

    @classmethod
    def of(cls, dataset: RowSource) -> RowFacts:
        """Read every row once."""
        known = getattr(dataset, "fingerprint", None)
        keys = getattr(dataset, "prompt_keys", None)
        digest = hashlib.sha256(dataset.kind.encode())
        numbers: list[tuple[bool, int, int, float]] = []
        labels: list[str] = []
        for index in range(len(dataset)):
            for row in dataset[index]:
                numbers.append((row.desirable, row.scored_length, row.prompt_length, row.reference_score))
                if keys is None:
                    labels.append(_prompt_label(row))
                if known is None:
                    content = f"{row.prompt_length}:{row.desirable}:{_digest(row.input_ids)};"
                    digest.update(content.encode())
        columns = np.array(numbers, dtype=np.float64).reshape(-1, 4)
        per_unit = len(numbers) // max(1, len(dataset))
        return cls(
            desirable=columns[:, 0].astype(np.bool_),
            completion_lengths=columns[:, 1].astype(np.int64),
            prompt_lengths=columns[:, 2].astype(np.int64),
            reference=columns[:, 3],
            prompts=np.array(labels) if keys is None else np.repeat(np.asarray(keys), per_unit),
            fingerprint=known if isinstance(known, str) else digest.hexdigest(),
        )


def _prompt_label(row: TokenRow) -> str:
    if row.prompt_length < _FEWEST_PROMPT_TOKENS:
        return f"unit {row.unit}"
    return _digest(row.input_ids[: row.prompt_length])


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredRows:
    """Scores of every row of a data set under a policy and its reference.

    Attributes:
        kind: `paired` (rows alternate chosen, rejected) or `unpaired`.
        policy: scores under the policy, nats, (rows,).
        reference: scores under the reference, nats, (rows,).
        desirable: whether each row is a preferred response, (rows,).
        noise: rounding of each score, nats, (rows,); None for exact scores.
        prompts: label of each row's prompt, (rows,).
        completion_lengths: tokens that are scored, (rows,).
        prompt_lengths: tokens, (rows,).
        fingerprint: of the data as the models read it.
        attributes: further attributes, one value per unit (pair or sample).
    """

    kind: DataKind
    policy: NDArray[np.float64]
    reference: NDArray[np.float64]
    desirable: NDArray[np.bool_]
    prompts: NDArray[Any]
    completion_lengths: NDArray[np.int64]
    prompt_lengths: NDArray[np.int64]
    fingerprint: str
    noise: NDArray[np.float64] | None = None
    attributes: Mapping[str, NDArray[Any]] = field(default_factory=dict[str, NDArray[Any]])

    @classmethod
    def of(
        cls,
        dataset: RowSource,
        facts: RowFacts,
        policy: NDArray[np.float64],
        reference: NDArray[np.float64],
        *,
        noise: NDArray[np.float64] | None = None,
        attributes: Mapping[str, ArrayLike] | None = None,
    ) -> ScoredRows:
        """Scores beside what the data set says of its rows.

        Raises:
            DataError: an attribute without one value per unit.
        """
        given = {name: np.asarray(values) for name, values in (attributes or {}).items()}
        for name, values in given.items():
            if values.shape != (len(dataset),):
                raise DataError(
                    f"attribute {name}: expected one value for each of {len(dataset)} units, got shape {values.shape}"
                )
        return cls(
            kind=dataset.kind,
            policy=policy.astype(np.float64),
            reference=reference.astype(np.float64),
            desirable=facts.desirable,
            noise=noise,
            prompts=facts.prompts,
            completion_lengths=facts.completion_lengths,
            prompt_lengths=facts.prompt_lengths,
            fingerprint=facts.fingerprint,
            attributes=given,
        )

    @property
    def rewards(self) -> NDArray[np.float64]:
        """Policy score minus reference score, nats, (rows,); zero throughout where all are zero to rounding."""
        rewards = self.policy - self.reference
        return np.zeros_like(rewards) if self.is_noise(rewards) else rewards

    def is_noise(self, differences: NDArray[np.float64]) -> bool:
        """Whether differences of the rows' scores are no larger than rounding."""
        return self.noise is not None and bool(np.all(np.abs(differences) <= self.noise))

    def clusters(self) -> Any:
        """Prompt labels as `dominance_certificate` takes them; None where all rows share one prompt.

        That is so with data that has no prompts: then there is nothing to keep together.
        """
        return self._by_side(self.prompts) if np.unique(self.prompts).size > 1 else None

    def lengths(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Completion lengths of preferred and of other rows."""
        return self.completion_lengths[self.desirable], self.completion_lengths[~self.desirable]

    def slices_by(self, names: Sequence[str]) -> Attributes:
        """Labels of slices, numbers in bins.

        Args:
            names: `completion_length` (of a pair: the mean of both), `prompt_length`, or names of attributes; with
                `:N` behind, numbers of more than N values are cut into N bins.

        Raises:
            ConfigError: an unknown name, or a number of bins that is none.
        """
        labels: dict[str, Any] = {}
        for wanted in names:
            name, bins = _parsed(wanted)
            if name in BUILT_IN:
                values = binned(BUILT_IN[name](self), bins)
            elif name in self.attributes:
                of_unit = binned(self.attributes[name], bins)
                values = of_unit if self.kind == "unpaired" else np.repeat(of_unit, 2)
            else:
                known = ", ".join([*BUILT_IN, *self.attributes])
                raise ConfigError(f"slice_by: {name!r} is unknown; there are {known}")
            labels[name] = self._by_side(values)
        return labels

    def _by_side(self, labels: NDArray[Any]) -> Any:
        """Labels of pairs, or of preferred and of other rows."""
        if self.kind == "paired":
            return labels[0::2]
        return labels[self.desirable], labels[~self.desirable]


def _completion_length(rows: ScoredRows) -> NDArray[Any]:
    lengths = rows.completion_lengths
    if rows.kind == "unpaired":
        return lengths
    return np.repeat((lengths[0::2] + lengths[1::2] + 1) // 2, 2)


BUILT_IN: Mapping[str, Callable[[ScoredRows], NDArray[Any]]] = {
    "completion_length": _completion_length,
    "prompt_length": lambda rows: rows.prompt_lengths,
}
"""Attributes that every data set has, tokens per row."""


def attribute_name(wanted: str) -> str:
    """The attribute that an entry of `slice_by` names, without its number of bins.

    Raises:
        ConfigError: a number of bins that is none.

    Examples:
        >>> attribute_name("prompt_length:3"), attribute_name("source")
        ('prompt_length', 'source')
    """
    return _parsed(wanted)[0]


def _parsed(wanted: str) -> tuple[str, int | None]:
    """A name and its number of bins, None where none was asked for."""
    name, colon, number = wanted.rpartition(":")
    if not colon:
        return wanted, None
    if not number.isdecimal() or int(number) < 2:
        raise ConfigError(f"slice_by: {wanted!r}: behind the colon stands a number of bins, 2 or more")
    return name, int(number)


def _digest(tokens: Sequence[int]) -> str:
    return hashlib.blake2b(np.asarray(tokens, dtype="<i8").tobytes(), digest_size=8).hexdigest()
