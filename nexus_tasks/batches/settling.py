"""Settling of a batch's requests that ended: an answer, another attempt, or set aside.

settling.take(worker, ended)
settling.settle_cut()               # those whose server hung up, when it is known whether it died
"""

from __future__ import annotations

from collections.abc import Sequence

from nexus_tasks.batches import failures
from nexus_tasks.batches.failures import Problem, Verdict
from nexus_tasks.batches.ledger import Ledger
from nexus_tasks.batches.scheduler import Scheduler
from nexus_tasks.batches.window import Work
from nexus_tasks.batches.worker import Ended, Worker
from nexus_tasks.servers.endpoint import LLAMA_CPP


class Settling:
    """Decides about requests that ended.

    Args:
        attempts: of one row at most, counting those that failed for a reason that may be its own.
    """

    def __init__(self, workers: Sequence[Worker], scheduler: Scheduler, ledger: Ledger, attempts: int) -> None:
        self._workers, self._scheduler, self._ledger = workers, scheduler, ledger
        self._attempts = attempts
        self._cut: list[tuple[Worker, Work, Problem]] = []  # whether their server died is being asked

    @property
    def is_waiting(self) -> bool:
        """True while something is still to be decided."""
        return bool(self._cut)

    def take(self, worker: Worker, ended: Ended) -> None:
        """Take a request that ended."""
        problem = ended.reading.problem or _other_model(worker, ended)
        if worker.alone is ended.work:
            worker.alone = None
        if problem is None:
            worker.succeeded(ended.moment - ended.work.begun)
            self._ledger.answer(worker, ended)
        else:
            self._fail(worker, ended.work, problem)

    def settle_cut(self) -> None:
        """Decide about requests that were cut, as soon as it is known whether their server died."""
        cut, self._cut = self._cut, []
        for worker, work, problem in cut:
            died = worker.watch.died
            if died is None and not worker.watch.is_lost:
                self._cut.append((worker, work, problem))
            elif died:
                self._crashed(worker, work)
            else:
                self._again(worker, work, problem)

    def _fail(self, worker: Worker, work: Work, problem: Problem) -> None:
        verdict = failures.judge(problem)
        if verdict is Verdict.NEVER:
            worker.pace.refused_one()
            self._refuse(worker, work, problem)
            return
        self._ledger.failed(worker, work, problem)
        match verdict:
            case Verdict.AGAIN:
                if problem.kind == "stalled":
                    worker.went_away(problem)  # until it has been looked at: it may be about to end
                self._again(worker, work, problem)
            case Verdict.CUT:
                worker.went_away(problem)
                self._cut.append((worker, work, problem))
            case Verdict.UNUSABLE:
                worker.watch.lose(problem.message)
                self._ask_again(work)
            case Verdict.ELSEWHERE:
                if problem.kind == "rate_limited":
                    worker.pace.overloaded(problem)
                else:
                    worker.went_away(problem)
                self._ask_again(work)

    def _again(self, worker: Worker, work: Work, problem: Problem) -> None:
        worker.pace.failed(problem)
        work.faults += 1
        if work.faults >= self._attempts:
            message = f"{work.faults} attempts failed, the last one so: {problem.kind}: {problem.message}"
            self._ledger.give_up(worker, work, Problem("attempts", message))
        else:
            self._ask_again(work, failures.backoff_s(work.faults))

    def _ask_again(self, work: Work, after_s: float = 0.0) -> None:
        if work.crashes >= failures.ALONE_FROM:
            self._scheduler.again_alone(work)
        else:
            self._scheduler.again(work, after_s)

    def _crashed(self, worker: Worker, work: Work) -> None:
        work.crashes += 1
        if work.crashes >= failures.MAX_CRASHES:
            message = f"its server died {work.crashes} times while it was under way, at last with nothing beside it"
            self._ledger.give_up(worker, work, Problem("crashes", message))
        else:
            self._ask_again(work)

    def _refuse(self, worker: Worker, work: Work, problem: Problem) -> None:
        """Set an item aside, unless another endpoint has the context that it needs."""
        if problem.kind == "too_long":
            work.n_ctx_over = max(work.n_ctx_over, worker.n_ctx)
            larger = [other for other in self._workers if other.n_ctx > work.n_ctx_over]
            if larger:
                self._ledger.failed(worker, work, problem)
                max(larger, key=lambda other: other.n_ctx).own.append(work)
                return
        self._ledger.give_up(worker, work, problem)


def _other_model(worker: Worker, ended: Ended) -> Problem | None:
    """The problem of an answer of a model that took the place of the batch's; the endpoint is looked at then, and also
    where another build answers.
    """
    server, reading = worker.last_server, ended.reading
    if server is None or server.engine != LLAMA_CPP:
        return None  # others name model and build as they like
    if server.build and reading.build and reading.build not in (server.build, *worker.builds):
        worker.builds.add(reading.build)  # behind a gateway several may answer in turn
        worker.watch.went_away(f"its build changed to {reading.build}")  # to be back when it has been looked at
    worker.names_itself = worker.names_itself or reading.model
    if reading.model in (None, worker.names_itself):
        return None
    return Problem("connect", f"{reading.model} answered instead of {worker.names_itself}")
