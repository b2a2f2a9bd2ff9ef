"""What each section of the page shows, as plain records that the templates lay out."""

from __future__ import annotations
