"""`python -m distal` is the command line."""

from __future__ import annotations

from distal.cli import main

if __name__ == "__main__":
    main()
