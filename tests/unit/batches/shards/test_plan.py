"""Plans of batches in shards."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from nexus_tasks.batches.shards import plan
from nexus_tasks.core.errors import UsageError


def write(path: Path, first: int, count: int, **columns: list[object]) -> None:
    prompts = [f"prompt {number}" for number in range(first, first + count)]
    parquet.write_table(pa.table({"prompt": prompts, **columns}), path, row_group_size=4)


def read(address: str, shards: plan.Plan, folder: Path) -> list[list[dict[str, object]]]:
    """The rows of each shard."""
    found = []
    for shard in shards.shards:
        plan.extract(address, shard, folder / shard.name, "id")
        found.append(parquet.read_table(folder / shard.name).to_pylist())
    return found


def test_shards_have_each_row_of_all_files_once_with_its_number_as_id(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "a.parquet", 0, 11)
    write(tmp_path / "in" / "b.parquet", 11, 3)
    address = str(tmp_path / "in")
    shards = plan.planned(address, 5)
    assert [shard.rows for shard in shards.shards] == [5, 5, 1, 3]
    assert shards.rows == 14
    rows = read(address, shards, tmp_path)
    assert [row for shard in rows for row in shard] == [{"prompt": f"prompt {n}", "id": n + 1} for n in range(14)]


def test_ids_of_the_input_stay(tmp_path: Path) -> None:
    write(tmp_path / "in.parquet", 0, 3, id=["x", "y", "z"])
    address = str(tmp_path / "in.parquet")
    rows = read(address, plan.planned(address, 2), tmp_path)
    assert [[row["id"] for row in shard] for shard in rows] == [["x", "y"], ["z"]]


def test_a_pattern_names_files(tmp_path: Path) -> None:
    for name in ("a1", "a2", "b"):
        write(tmp_path / f"{name}.parquet", 0, 2)
    assert plan.planned(f"{tmp_path}/a*.parquet", 10).rows == 4


@pytest.mark.parametrize(
    ("content", "message"), [(None, "No such file"), (b"", "is 0 bytes"), (b"PAR1 and what was not written", "magic")]
)
def test_what_is_no_parquet_is_refused_in_a_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "in.parquet").write_bytes(content)
    with pytest.raises(UsageError, match=message) as refused:
        plan.planned(str(tmp_path / "in.parquet"), 10)
    assert "\n" not in refused.value.message


def test_an_input_without_rows_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "in.parquet", 0, 0)
    with pytest.raises(UsageError, match="no rows"):
        plan.planned(str(tmp_path / "in.parquet"), 10)


def test_an_address_that_has_no_way_is_refused() -> None:
    with pytest.raises(UsageError, match="no way to nowhere://x"):
        plan.planned("nowhere://x", 10)


def test_jobs_of_another_plan_are_not_gone_on_with(tmp_path: Path) -> None:
    write(tmp_path / "in.parquet", 0, 9)
    address, jobs = str(tmp_path / "in.parquet"), str(tmp_path / "out" / "jobs")
    begun = plan.kept(jobs, plan.planned(address, 5))
    assert plan.kept(jobs, plan.planned(address, 5)) == begun
    with pytest.raises(UsageError, match=r"other files, or other shards: .*in\.parquet, 9 rows in 2"):
        plan.kept(jobs, plan.planned(address, 4))
    write(tmp_path / "in.parquet", 0, 10)
    with pytest.raises(UsageError, match="other files"):
        plan.kept(jobs, plan.planned(address, 5))


def test_a_path_is_one_for_all_nodes_and_an_address_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert plan.absolute("out") == str(tmp_path / "out")
    assert plan.absolute("s3://bucket/out") == "s3://bucket/out"
