"""Ray engine: the shards of a batch as a Ray Data job, on the workers of a cluster.

    for done in run(batch, plan, cluster="auto"):       # as they come to their ends
        done.shard, done.answered

Ray starts a shard again whose worker or node is lost; its journal knows what was answered. Rows that can't be answered
are set aside by the shard's own job: to Ray each shard comes to an end.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

import nexus_tasks
from nexus_tasks.batches.shards.plan import Plan, Shard, kept
from nexus_tasks.batches.shards.work import Batch, Done, work
from nexus_tasks.core.errors import BatchError, UsageError
from nexus_tasks.servers import route

CONNECT_SECONDS = 10.0
LOCAL = "local"
"""In place of a cluster's address: one that runs on this machine as long as the batch."""


def run(batch: Batch, plan: Plan, cluster: str) -> Iterator[Done]:
    """Work on all shards, as many at a time as the cluster has CPUs.

    Args:
        cluster: address of a Ray cluster, ``auto`` for the one that runs on this machine, or LOCAL.

    Raises:
        UsageError: Ray is not installed, there is no such cluster, or the jobs there are of another plan.
        BatchError: the cluster is lost.
    """
    with _connected(cluster):
        from ray import data, exceptions

        logging.getLogger("ray.data").setLevel(logging.ERROR)
        plan = kept(batch.jobs, plan)

        key = os.environ.get(route.KEY_VARIABLE)
        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        rows = [{"shard": msgspec.json.encode(shard)} for shard in plan.shards]
        shards = data.from_items(rows, override_num_blocks=len(rows))
        # Tasks of Ray Data are started again without end when their worker is lost.
        results = shards.map(_work, fn_args=(msgspec.json.encode(batch), key), num_cpus=1)
        try:
            for row in results.iter_rows():
                yield msgspec.json.decode(row["done"], type=Done)
        except exceptions.RayError as error:
            raise BatchError(
                f"the Ray cluster failed: {' '.join(str(error).split())[:300]}",
                hint="run the same command again: it goes on where the shards' journals end",
            ) from error


def _work(row: dict[str, Any], batch: bytes, key: str | None) -> dict[str, Any]:
    """Run on a worker: bytes in, bytes out, so that the cluster needs to know none of the types."""
    if key is not None:
        os.environ[route.KEY_VARIABLE] = key
    done = work(msgspec.json.decode(batch, type=Batch), msgspec.json.decode(row["shard"], type=Shard))
    return {"done": msgspec.json.encode(done)}


@contextlib.contextmanager
def _connected(cluster: str) -> Iterator[None]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a local cluster's; Ray would send them to its makers
    try:
        import ray
    except ImportError as error:
        raise UsageError("--engine ray needs Ray, which is not here", hint="nox -s ray installs it") from error
    package = str(Path(nexus_tasks.__file__).parent)
    _must_answer(cluster)
    options = {"include_dashboard": False} if cluster == LOCAL else {"runtime_env": {"py_modules": [package]}}
    try:
        ray.init(address=cluster, log_to_driver=False, logging_level=logging.ERROR, **options)
    except Exception as error:  # of a cluster that doesn't come up, Ray raises nothing more particular
        raise _no_cluster(cluster, error) from error
    try:
        yield
    finally:
        ray.shutdown()


def _must_answer(cluster: str) -> None:
    """Refuse the address of a cluster where nothing listens, for which Ray would wait for minutes."""
    found = re.fullmatch(r"(?:ray://)?(.+):(\d+)", cluster)
    if found:
        try:
            socket.create_connection((found[1], int(found[2])), timeout=CONNECT_SECONDS).close()
        except OSError as error:
            raise _no_cluster(cluster, error) from error


def _no_cluster(cluster: str, error: Exception) -> UsageError:
    return UsageError(
        f"no Ray cluster at {cluster}: {' '.join(str(error).split())[:200]}",
        hint="ray start --head begins one; --address local runs one on this machine while the batch runs",
    )
