"""PKU's BeaverTails (is the answer safe?) and SafeRLHF (which is more helpful, which is safer?)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from distal.data import fields
from distal.data.formats.base import Format, Made, Origin, Row, attempt, has, one, pair, sample
from distal.data.schemas import Preference

__all__ = ["FORMATS"]


def _read_beavertails(row: Row) -> Preference:
    return sample(fields.string(row, "prompt"), fields.string(row, "response"), fields.label(row, "is_safe"))


def _read_by(row: Row, column: str) -> Preference:
    better = fields.choice(row, column)
    sides = [fields.string(row, f"response_{side}") for side in (0, 1)]
    return pair(fields.string(row, "prompt"), sides[better], sides[1 - better])


def _read_safety(row: Row) -> Iterator[Made]:
    prompt = fields.string(row, "prompt")
    for side in (0, 1):

        def make(side: int = side) -> Made:
            label = fields.label(row, f"is_response_{side}_safe")
            return sample(prompt, fields.string(row, f"response_{side}"), label)

        yield attempt(make)


def _by(column: str) -> Callable[[Row], Iterator[Made]]:
    return one(partial(_read_by, column=column))


_LICENCE = "CC BY-NC 4.0"
_SAFE = Origin("Ji et al. 2024, arXiv 2406.15513; Dai et al. 2023, arXiv 2310.12773", _LICENCE)
_SIDES = frozenset({"prompt", "response_0", "response_1"})
_HELPFUL, _SAFER = "better_response_id", "safer_response_id"
_SAFETY = ("is_response_0_safe", "is_response_1_safe")

FORMATS = (
    Format(
        name="beavertails",
        title="BeaverTails: prompt, response, is_safe",
        kind="unpaired",
        columns=frozenset({"prompt", "response", "is_safe"}),
        recognise=has("prompt", "response", "is_safe"),
        read=one(_read_beavertails),
        origin=Origin("Ji et al. 2023, arXiv 2307.04657", _LICENCE),
    ),
    Format(
        name="saferlhf",
        title="SafeRLHF, the more helpful response: better_response_id",
        kind="paired",
        columns=_SIDES | {_HELPFUL},
        recognise=has(*_SIDES, _HELPFUL),
        read=_by(_HELPFUL),
        note="pairs by helpfulness; saferlhf-safer pairs by safety, saferlhf-safety labels every response",
        origin=_SAFE,
    ),
    Format(
        name="saferlhf-safer",
        title="SafeRLHF, the safer response: safer_response_id",
        kind="paired",
        columns=_SIDES | {_SAFER},
        recognise=has(*_SIDES, _SAFER),
        read=_by(_SAFER),
        origin=_SAFE,
    ),
    Format(
        name="saferlhf-safety",
        title="SafeRLHF, every response by its own label: is_response_0_safe, is_response_1_safe",
        kind="unpaired",
        columns=_SIDES | frozenset(_SAFETY),
        recognise=has(*_SIDES, *_SAFETY),
        read=_read_safety,
        origin=_SAFE,
    ),
)
