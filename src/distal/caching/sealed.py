"""Small JSON files that carry their own checksum: whatever changes a byte of one is found when it is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, cast

__all__ = ["digest_of", "seal", "unseal"]

_SEAL = "sha256"


def digest_of(record: Mapping[str, Any]) -> str:
    """SHA-256 of a record, 64 hexadecimal digits; the same for the same content in any order."""
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def seal(record: Mapping[str, Any]) -> bytes:
    """The file that holds a record and its checksum.

    Examples:
        >>> unseal(seal({"rows": 3}))
        {'rows': 3}
    """
    sealed = {**record, _SEAL: digest_of(record)}
    return (json.dumps(sealed, sort_keys=True, indent=1, allow_nan=False) + "\n").encode()


def unseal(content: bytes) -> dict[str, Any]:
    """The record of a file that `seal` made.

    Raises:
        ValueError: it is another file, or a byte of it has changed.
    """
    try:
        record = cast("dict[str, Any]", json.loads(content))
        del record[_SEAL]
        intact = seal(record) == content
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError("it is not a JSON file with a checksum") from error
    if not intact:
        raise ValueError("the content does not have the checksum that it carries")
    return record
