"""Why the exporter can't run. Python 3.9's standard library only."""

from __future__ import annotations


class ExporterError(Exception):
    """What is wrong and what to do, in one line."""
