"""Twins of a batch: items whose requests are the same, so that one answer is that of all.

    twins = Twins(keys)             # KEY_BYTES for each item
    twins.leader(7)                 # 3: the first item that asks the same
    twins.followers(3)              # [7, 12]

They are found by sorting the keys: sixteen bytes for an item while it is sorted, eight afterwards.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nexus_tasks.batches.items import KEY_BYTES


class Twins:
    """Items by their requests.

    Args:
        keys: KEY_BYTES for each item in order; those of items that can't be asked are zero, and have no twins.
    """

    def __init__(self, keys: bytes) -> None:
        halves = np.frombuffer(keys, dtype=np.uint64).reshape(-1, KEY_BYTES // 8)
        order = np.lexsort((halves[:, 1], halves[:, 0])).astype(np.uint32)  # stable: the first of each comes first
        ordered = halves[order]
        is_first = np.ones(len(order), dtype=bool)
        is_first[1:] = (ordered[1:] != ordered[:-1]).any(axis=1) | ~ordered[1:].any(axis=1)
        self._order = order
        self._place = np.empty(len(order), dtype=np.uint32)  # of an item in the order
        self._place[order] = np.arange(len(order), dtype=np.uint32)
        self._starts = np.flatnonzero(is_first).astype(np.uint32)

    def leader(self, index: int) -> int:
        """The first item whose request is that of an item."""
        return int(self._order[self._starts[self._group(index)]])

    def followers(self, index: int) -> npt.NDArray[np.uint32]:
        """The other items whose request is that of a leader."""
        group = self._group(index)
        end = self._starts[group + 1] if group + 1 < len(self._starts) else len(self._order)
        return self._order[self._starts[group] + 1 : end]

    def _group(self, index: int) -> int:
        return int(np.searchsorted(self._starts, self._place[index], side="right")) - 1
