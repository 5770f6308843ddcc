"""Uses of models as records tell them."""

from __future__ import annotations

import math
from pathlib import Path

from nexus_tasks.records import store
from nexus_tasks.views.model_uses import _place, of_jobs_last, serving, uses_of
from tests import batch_runs, compare_records, deployment_records
from tests.support.known_models import use


def test_a_deployment_tells_of_each_instance_what_it_serves_and_whether_it_was_started(tmp_path: Path) -> None:
    rows = [
        deployment_records.instance("main"),
        deployment_records.instance("same", changed=False),
        deployment_records.restored("back", deployment_records.instance(model={"name": "old", "sha256": "0" * 64})),
        deployment_records.instance("gone", "stopped", removed=True),
    ]
    path = deployment_records.write(tmp_path, deployment_records.NOON, deployment_records.host("rig-1", *rows))
    found = {one.instance: (one.model, one.loads, one.serves) for one in uses_of(store.load(path, "deployment"))}
    name = "gpt-oss-20b-mxfp4"
    assert found["main"] == (name, 1, True)
    assert found["same"] == (name, 0, True)
    assert (found["back"][0], found["back"][2]) == ("old", True)
    assert found["gone"][1:] == (0, False)


def test_a_benchmark_tells_its_requests_and_tokens(tmp_path: Path) -> None:
    record = compare_records.run("20261122T120000000Z-a-0001")
    [path] = compare_records.save(tmp_path, record)
    [told] = uses_of(store.load(path))
    assert (told.requests, told.model) == (len(record.requests), record.header.model.name)
    assert told.output_tokens == math.fsum(row.output_tokens or 0 for row in record.requests) > 0


def test_of_a_batch_the_last_record_counts(tmp_path: Path) -> None:
    records = [use(number, "batch", requests=number * 10, job="night") for number in (1, 2)]
    other = use(1, "batch", requests=5, job="day")
    assert {one.requests for one in of_jobs_last([*records, other])} == {20, 5}


def test_an_instance_serves_what_its_last_deployment_left() -> None:
    first, second = (use(number, "deployment", model=name, serves=True) for number, name in ((1, "a"), (2, "b")))
    assert [one.model for one in serving([second, first])] == ["b"]
    stopped = use(3, "deployment", model=None, serves=False)
    assert serving([first, second, stopped]) == []


def test_a_batch_tells_of_each_endpoint(tmp_path: Path) -> None:
    run = batch_runs.unequal(60)
    record = batch_runs.recorded(tmp_path, run.entries, 60)
    told = uses_of(record)
    assert {(one.host, one.instance) for one in told} == {("gpu-01", "main"), ("gpu-02", "main")}
    assert sum(one.requests for one in told) == sum(endpoint.answered for endpoint in record.endpoints) > 0
    assert of_jobs_last([*told, *told]) == [*told, *told]  # of one record all


def test_an_address_is_no_host() -> None:
    assert _place("http://rig-1:8600") == (None, "http://rig-1:8600")
    assert _place("@other") == (None, "@other")
    assert _place("rig-1/main") == ("rig-1", "main")
