"""JSON Schema of a certificate, read off its records."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import TypeAdapter

from distal.evaluation.records import SCHEMA, DominanceCertificate
from distal.evaluation.verdict import Decision

__all__ = ["certificate_schema"]

_WORDS: dict[str, Any] = {
    "decision": {"enum": list(get_args(Decision))},
    "verdict": {"type": "string", "description": "the decision in one sentence"},
    "intervals_reliable": {
        "type": "boolean",
        "description": "false where fewer than 20 independent samples make intervals too narrow",
    },
}
"""What `to_dict` adds to the numbers."""


def certificate_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of what `DominanceCertificate.to_dict` returns.

    Examples:
        >>> certificate_schema()["properties"]["schema"]
        {'const': 'distal.dominance/2'}
    """
    schema = TypeAdapter(DominanceCertificate).json_schema(mode="serialization")
    for name in ("LawComparison", "LengthControl"):
        schema["$defs"][name]["properties"] |= _WORDS
    schema["$defs"]["SecondOrder"]["properties"] |= {name: _WORDS[name] for name in ("decision", "verdict")}
    schema["properties"] |= {
        "schema": {"const": SCHEMA},
        **_WORDS,
        "notes": {"type": "array", "items": {"type": "string"}},
    }
    schema["required"] = sorted({*schema["required"], "schema", "decision", "verdict", "notes"})
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": SCHEMA, **schema}
