"""A check on a machine with a real GPU: ``check.sh`` runs it, ``pack`` prepares what it brings along."""

import contextlib

with contextlib.suppress(ImportError):  # check.py runs where there is nothing but Python yet
    from tests import modules

    modules.share()
