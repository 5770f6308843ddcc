"""Tally of a run: what its requests come to over all stages, in the windows of time in which they counted."""

from __future__ import annotations

from collections.abc import Mapping

from nexus_tasks.records import benchmark_rows as rows
from nexus_tasks.records.benchmark_rows import BenchmarkSummary, RequestRow
from nexus_tasks.stats import summary


class Agreement:
    """Distance of the client's decode time from the server's own, over all counted requests that have both."""

    def __init__(self) -> None:
        self._client_ms = self._server_ms = 0.0

    def add(self, row: RequestRow) -> None:
        server_ms = row.server.predicted_ms if row.server else None
        if row.ok and row.phase == "run" and row.decode_ms is not None and server_ms:
            self._client_ms += row.decode_ms
            self._server_ms += server_ms

    def as_row(self) -> rows.Agreement | None:
        if not self._server_ms:
            return None
        return rows.Agreement(
            client_decode_ms=round(self._client_ms, 3),
            server_decode_ms=round(self._server_ms, 3),
            difference_percent=(self._client_ms - self._server_ms) / self._server_ms * 100,
        )


class Tally:
    """Takes request rows and the ends of stages, and knows what the run came to so far.

    Args:
        slo: limits in ms that a good request keeps.
    """

    def __init__(self, slo: Mapping[str, float]) -> None:
        self._all = summary.Collector(slo)
        self._agreement = Agreement()
        self._watches: list[rows.Watch] = []
        self._under_way: tuple[float, float] | None = None
        """The window so far of the stage under way, in seconds after the run's begin."""

    def add(self, row: RequestRow) -> None:
        """Take a request that ended."""
        self._all.add(row)
        self._agreement.add(row)
        if row.phase == "run" and row.intended_s is not None:
            begun, ended = row.intended_s, row.intended_s + (row.total_ms or 0.0) / 1000
            first, last = self._under_way or (begun, ended)
            self._under_way = min(first, begun), max(last, ended)

    def end_stage(self, watch: rows.Watch) -> None:
        """Take the end of the stage under way."""
        self._watches.append(watch)
        self._under_way = None

    @property
    def output_tokens(self) -> int:
        """Tokens that came while requests counted."""
        return self._all.output_tokens

    @property
    def windows(self) -> list[tuple[float, float]]:
        """The times in which requests counted, stage by stage, in seconds after the run's begin."""
        windows = [(watch.begun_s, watch.ended_s) for watch in self._watches]
        return [*windows, self._under_way] if self._under_way else windows

    @property
    def counted_s(self) -> float:
        """Seconds in which requests counted."""
        return sum(ended - begun for begun, ended in self.windows)

    def verdict(
        self, *, interrupted: bool, wall_s: float, knee: int | None, energy: rows.Energy | None
    ) -> BenchmarkSummary:
        """The summary: the figures, and whether they are to be trusted."""
        figures = self._all.figures(self.counted_s)
        reasons = list(dict.fromkeys(reason for watch in self._watches for reason in watch.reasons))
        complete = bool(self._all.counted) and not figures.failed
        return BenchmarkSummary(
            **rows.fields(figures),
            ok=complete and not interrupted,
            valid=not reasons,
            reasons=reasons,
            interrupted=interrupted,
            stopped=next((w.stopped for w in self._watches if w.stopped not in (None, "enough")), None),
            wall_s=round(wall_s, 3),
            knee=knee,
            agreement=self._agreement.as_row(),
            energy=energy,
        )
