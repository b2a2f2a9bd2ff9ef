"""The exceptions that Distal raises for mistakes a user can mend.

```
DistalError                 base class; the command line prints it without a traceback
├── ConfigError             an option: unknown, unused, of the wrong type, or contradicting another   exit 2
├── DataError               a data file or row: missing, broken, of the wrong shape                   exit 3
├── ModelError              a model or tokenizer that cannot be loaded or used                        exit 4
│   └── ReferenceMismatchError   policy and reference disagree where they must coincide
├── NonFiniteError          NaN or infinity in scores, loss or gradient                               exit 5
├── OutputError             the output folder: occupied, not writable, disk full                      exit 6
├── CacheError              a score cache that is corrupt or belongs to something else                exit 7
└── ServiceError            a model server that does not answer, or a budget that is spent            exit 8
```

Every message says what is wrong, where, what was found, and how to mend it. Exit code 1 is left to errors
that are our own; 130 is an interruption with Ctrl-C.

`distal.transport` and `distal.objectives` are libraries of mathematics and raise plain `ValueError` and `TypeError`.
"""

from __future__ import annotations

__all__ = [
    "CacheError",
    "ConfigError",
    "DataError",
    "DistalError",
    "ModelError",
    "NonFiniteError",
    "OutputError",
    "ReferenceMismatchError",
    "ServiceError",
]


class DistalError(Exception):
    """Base class of every error that a user can mend; `exit_code` is what the command line returns."""

    exit_code = 1


class ConfigError(DistalError, ValueError):
    """An option is unknown, unused, of the wrong type, or contradicts another."""

    exit_code = 2


class DataError(DistalError, ValueError):
    """A data file or row is missing, broken, or of the wrong shape."""

    exit_code = 3


class ModelError(DistalError, RuntimeError):
    """A model or tokenizer cannot be loaded or used."""

    exit_code = 4


class ReferenceMismatchError(ModelError):
    """Policy and reference give different scores where they must coincide (before the first step)."""


class NonFiniteError(DistalError, ArithmeticError):
    """A score, loss or gradient is NaN or infinite; raised before the optimizer step."""

    exit_code = 5


class OutputError(DistalError, OSError):
    """The output folder is occupied, not writable, or its disk is full."""

    exit_code = 6


class CacheError(DistalError, RuntimeError):
    """A score cache is corrupt or belongs to something else."""

    exit_code = 7


class ServiceError(DistalError, RuntimeError):
    """A model server does not answer as it should, or the budget for it is spent; its answers so far are kept."""

    exit_code = 8
