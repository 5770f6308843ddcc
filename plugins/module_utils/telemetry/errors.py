"""Errors of an exporter that can't run. Python 3.9's standard library only."""

from __future__ import annotations


class ExporterError(Exception):
    """An exporter that can't run: what is wrong and what to do, in one line."""
