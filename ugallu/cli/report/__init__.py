"""One self-contained HTML page about what was found and how it is proven: no script, no font, no request."""

from ugallu.cli.report.page import render
from ugallu.cli.report.story import Check, Entry, Story

__all__ = ["Check", "Entry", "Story", "render"]
