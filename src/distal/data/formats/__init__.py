"""Formats of preference data: the columns of public data sets and of other tools, read into one record.

One module per family. `find_format` recognises a data set by its columns and its first rows, or takes the format
that the user names.
"""

from __future__ import annotations

from distal.data.formats.base import Format, FormatKind
from distal.data.formats.registry import COLUMNS, FORMATS, find_format

__all__ = ["COLUMNS", "FORMATS", "Format", "FormatKind", "find_format"]
