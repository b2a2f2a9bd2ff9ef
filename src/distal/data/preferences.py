"""A tokenised preference data set: what the sampler, the scorer and the trainer work with."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import Dataset

from distal.data.report import DataReport
from distal.data.splitting import split_by_group
from distal.data.store import RowStore
from distal.errors import NonFiniteError
from distal.types import DataKind, TokenRow

__all__ = ["TokenizedPreferences"]


class TokenizedPreferences(Dataset[list[TokenRow]]):
    """Units of token rows, read from a memory-mapped file; made by `prepare_dataset`.

    `dataset[i]` is the list of rows of unit i: `[chosen, rejected]` when paired, `[row]` when unpaired. Rows
    are numbered unit by unit. Selections share the file; nothing is copied.

    Args:
        store: the rows.
        kind: paired or unpaired.
        report: what became of the rows of the source.
        units: which units of the store make up this data set, in order; all by default.
        reference: summed log-probability of each row of this data set under the reference, nats, (n_rows,).
        weighted: whether units count by their weights, where they have any.
    """

    def __init__(
        self,
        store: RowStore,
        kind: DataKind,
        report: DataReport,
        units: NDArray[np.int64] | None = None,
        reference: NDArray[np.float64] | None = None,
        *,
        weighted: bool = True,
    ) -> None:
        self.kind: DataKind = kind
        self.report = report
        self._store = store
        self._reference = reference
        self._weighted = weighted and store.weights is not None
        self._per_unit = 2 if kind == "paired" else 1
        self._units = np.arange(len(store) // self._per_unit) if units is None else units

    def __len__(self) -> int:
        return len(self._units)

    def __getitem__(self, index: int) -> list[TokenRow]:
        unit = self._position(index)
        first, store = int(self._units[unit]) * self._per_unit, self._store
        return [
            TokenRow(
                input_ids=store.tokens(row).tolist(),
                prompt_length=int(store.prompt_lengths[row]),
                desirable=bool(store.desirable[row]),
                unit=unit,
                source_row=int(store.source_rows[row]),
                reference_score=self._score(unit * self._per_unit + row - first),
                completion_mask=store.mask(row),
                weight=None if self._weights is None else float(self._weights[row]),
            )
            for row in range(first, first + self._per_unit)
        ]

    def __iter__(self) -> Iterator[list[TokenRow]]:
        return (self[unit] for unit in range(len(self)))

    def __repr__(self) -> str:
        scored = "with" if self.has_reference_scores else "without"
        size = f"{len(self)} units, {scored} reference scores"
        return f"TokenizedPreferences({self.report.name!r}, {self.kind}, {size})"

    @property
    def n_rows(self) -> int:
        """Number of rows: twice the number of units when paired."""
        return len(self) * self._per_unit

    @property
    def labels(self) -> NDArray[np.bool_]:
        """For each unit of an unpaired data set, whether it is desirable; paired data has no labels."""
        if self.kind == "paired":
            raise AttributeError("a paired data set has no labels: every unit holds one row of either kind")
        return self._store.desirable[self._units]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens per row, prompt and completion together, (n_rows,)."""
        return self._store.lengths[self._rows]

    @property
    def completion_lengths(self) -> NDArray[np.int64]:
        """Completion tokens per row, scored or not, (n_rows,)."""
        return self.lengths - self._store.prompt_lengths[self._rows]

    @property
    def scored_lengths(self) -> NDArray[np.int64]:
        """Completion tokens per row that make up its score, (n_rows,)."""
        return self._store.scored_lengths[self._rows].astype(np.int64)

    @property
    def desirable(self) -> NDArray[np.bool_]:
        """Whether each row is chosen or liked, (n_rows,)."""
        return self._store.desirable[self._rows]

    @property
    def prompt_lengths(self) -> NDArray[np.int64]:
        """Prompt tokens per row, (n_rows,)."""
        return self._store.prompt_lengths[self._rows].astype(np.int64)

    @property
    def source_rows(self) -> NDArray[np.int64]:
        """For each unit, the 0-based row of the user's data that it comes from."""
        return self._store.source_rows[self._units * self._per_unit].astype(np.int64)

    @property
    def prompt_keys(self) -> NDArray[np.uint64]:
        """A number per unit, equal for units of the same prompt; without a prompt, of the same completions.

        Case, white space and system messages do not tell prompts apart, as in `distal data split` and `check`.
        """
        return self._store.groups[self._units * self._per_unit]

    @property
    def weights(self) -> NDArray[np.float64] | None:
        """How much each unit counts in the loss, (len,), all positive; None where all count alike."""
        return None if self._weights is None else self._weights[self._units * self._per_unit]

    def without_weights(self) -> TokenizedPreferences:
        """The same data set, all of whose units count alike."""
        return TokenizedPreferences(
            self._store, self.kind, self.report, self._units, self._reference, weighted=False
        )

    @property
    def _weights(self) -> NDArray[np.float64] | None:
        return self._store.weights if self._weighted else None

    @property
    def has_reference_scores(self) -> bool:
        """Whether rows carry the score of the reference."""
        return self._reference is not None

    @property
    def reference_scores(self) -> NDArray[np.float64] | None:
        """Reference score of each row, nats, (n_rows,); None until known."""
        return self._reference

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over what the model will see: ids, prompt lengths, labels, masks, their order, and the kind.

        It depends on nothing else (nor on weights), so that it is the same in every process and for every way to the
        same rows.
        """
        digest, store = hashlib.sha256(f"distal-rows-1:{self.kind}:{self.n_rows}".encode()), self._store
        for column in (self.lengths, store.prompt_lengths[self._rows], store.desirable[self._rows]):
            digest.update(np.ascontiguousarray(column, dtype="<i8").tobytes())
        whole = np.array_equal(self._units, np.arange(len(store) // self._per_unit))
        for tokens in store.all_tokens() if whole else map(store.tokens, self._rows.tolist()):
            digest.update(np.ascontiguousarray(tokens, dtype="<i4").tobytes())
        masks = map(store.mask, self._rows.tolist()) if store.has_masks else iter(())
        for row, mask in enumerate(masks):
            if mask is not None:
                digest.update(f"mask:{row}:".encode() + bytes(mask))
        return digest.hexdigest()

    def text(self, index: int) -> dict[str, Any]:
        """The texts of a unit as they were before truncation; conversations as the chat template writes them.

        Returns:
            `prompt`, `chosen`, `rejected` when paired; `prompt`, `completion`, `label` when unpaired.
        """
        first = int(self._units[self._position(index)]) * self._per_unit
        prompt, completion = self._store.prompt(first), self._store.completion(first)
        if self.kind == "paired":
            return {"prompt": prompt, "chosen": completion, "rejected": self._store.completion(first + 1)}
        return {"prompt": prompt, "completion": completion, "label": bool(self._store.desirable[first])}

    def with_reference_scores(self, scores: ArrayLike) -> TokenizedPreferences:
        """The same data set, its rows carrying the scores of the reference.

        Args:
            scores: summed log-probability of each row's completion under the reference, nats, (n_rows,).

        Raises:
            ValueError: not one score per row.
            NonFiniteError: a score is NaN or infinite.
        """
        values = np.array(scores, dtype=np.float64)
        if values.shape != (self.n_rows,):
            raise ValueError(
                f"expected one reference score for each of {self.n_rows} rows, got shape {values.shape}"
            )
        if not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values))[0])
            source = int(self._store.source_rows[self._rows[row]])
            raise NonFiniteError(
                f"{self.report.name}: the reference scores row {source} with {values[row]}; check that the "
                f"reference model's weights are finite and its dtype is wide enough"
            )
        return TokenizedPreferences(
            self._store, self.kind, self.report, self._units, values, weighted=self._weighted
        )

    def select(self, indices: Sequence[int] | NDArray[np.int64]) -> TokenizedPreferences:
        """The units at `indices`, in that order, with their reference scores; units are numbered anew."""
        chosen = np.array([self._position(index) for index in indices], dtype=np.int64)
        reference = None
        if self._reference is not None:
            reference = self._reference.reshape(-1, self._per_unit)[chosen].reshape(-1)
        units = self._units[chosen]
        return TokenizedPreferences(
            self._store, self.kind, self.report, units, reference, weighted=self._weighted
        )

    def shuffled_split(
        self, n_or_fraction: int | float, seed: int = 0
    ) -> tuple[TokenizedPreferences, TokenizedPreferences]:
        """Split into (rest, held out) such that all units of one prompt, as `prompt_keys` has it, lie on one side.

        Prompts are shuffled and held out one by one until the held-out side has as many units as asked for;
        with the last prompt it may have a few more. Units without a prompt go together where their
        completions are equal.

        Args:
            n_or_fraction: size of the held-out side: a number of units, or a fraction between 0 and 1.
            seed: of the shuffle; both sides keep the shuffled order of prompts.

        Raises:
            ConfigError: the size is not a number of units or a fraction.
            DataError: one side would be empty.
        """
        rest, held_out = split_by_group(self.prompt_keys, n_or_fraction, seed, self.report.name)
        return self.select(rest), self.select(held_out)

    @property
    def _rows(self) -> NDArray[np.int64]:
        """Rows of the store, in the order of this data set."""
        return (self._units[:, None] * self._per_unit + np.arange(self._per_unit)).reshape(-1)

    def _position(self, index: int) -> int:
        position = operator.index(index)
        if not -len(self) <= position < len(self):
            raise IndexError(f"unit {position} of a data set of {len(self)}")
        return position % len(self)

    def _score(self, row: int) -> float:
        return float("nan") if self._reference is None else float(self._reference[row])
