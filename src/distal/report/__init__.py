"""Reports: figures and tables that people look at.

`distal.report.figures` imports matplotlib and is left out here: the terminal's tables stay quick to import. So is
`distal.report.page`, the report on runs as an HTML page.
"""

from __future__ import annotations

from distal.report.terminal import certificate_table, certificate_tables

__all__ = ["certificate_table", "certificate_tables"]
