"""The command line: `distal align`, `data`, `score`, `evaluate`, `report`, `cache`, `demo`, `env`.

One module per verb. Nothing heavy is imported before a verb is known, so that help comes at once.
"""

from __future__ import annotations

from distal.cli.app import app, main

__all__ = ["app", "main"]
