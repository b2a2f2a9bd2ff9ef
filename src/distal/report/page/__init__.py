"""The report on a run, or on several, as one HTML page that works offline.

`read_runs` reads what is in the folders, `page_html` lays it out, `statements` says the same to machines.
"""

from __future__ import annotations

from distal.report.page.document import page_html
from distal.report.page.reading import Problem
from distal.report.page.run import Run, read_runs
from distal.report.page.statements import statements

__all__ = ["Problem", "Run", "page_html", "read_runs", "statements"]
