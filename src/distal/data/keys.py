"""Numbers that stand for prompts: equal where the same is asked."""

from __future__ import annotations

import hashlib
import json
import unicodedata

from distal.data.schemas import Preference, Text

__all__ = ["plain_text", "prompt_key", "prompt_text"]


def prompt_text(prompt: Text) -> str:
    """What a prompt says, without roles; system messages are left out, which many prompts share.

    Examples:
        >>> prompt_text([{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}])
        'Hi'
    """
    if isinstance(prompt, str):
        return prompt
    return "\n".join(turn["content"] for turn in prompt if turn["role"] != "system")


def plain_text(text: str) -> str:
    """A text with its case, its white space and its compatibility forms made the same."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def prompt_key(row: Preference) -> int:
    """64 bits, equal for prompts that differ in case, white space and system messages only.

    An empty prompt says nothing: then equal completions are what should stay together.

    Examples:
        >>> def key(prompt, answer):
        ...     return prompt_key(Preference(prompt, (answer,), (True,)))
        >>> key("Why?", "So.") == key(" why?", "No."), key("", "So.") == key("", "No.")
        (True, False)
    """
    parts = [plain_text(prompt_text(row.prompt))]
    if not parts[0]:
        parts += sorted(json.dumps(side, sort_keys=True) for side in row.completions)
    digest = hashlib.blake2b("\0".join(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
