"""Real Parquet files."""

from __future__ import annotations

import datetime
import decimal
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from nexus_tasks.batches.formats import parquet_table
from nexus_tasks.core.errors import UsageError
from tests.unit.batches.reading import read


def test_rows_of_all_groups_are_read_in_order(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"prompt": [f"p{i}" for i in range(1000)]}), path, row_group_size=300)
    assert [row["prompt"] for row in read(parquet_table.rows, path).values()] == [f"p{i}" for i in range(1000)]
    assert parquet_table.columns(path) == ("prompt",)


def test_values_become_what_json_has(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    day = datetime.date(2026, 11, 30)
    row = {
        "messages": [{"role": "user", "content": "Why?", "name": None}],
        "score": float("nan"),
        "day": day,
        "at": datetime.datetime(2026, 11, 30, 12, tzinfo=datetime.UTC),
        "price": decimal.Decimal("1.50"),
        "raw": b"\x00\xff",
        "none": None,
        "right": True,
    }
    parquet.write_table(pa.Table.from_pylist([row]), path)
    assert read(parquet_table.rows, path) == {
        1: {
            "messages": [{"role": "user", "content": "Why?", "name": None}],
            "score": None,
            "day": "2026-11-30",
            "at": "2026-11-30T12:00:00+00:00",
            "price": "1.50",
            "raw": "AP8=",
            "none": None,
            "right": True,
        }
    }


def test_moments_to_the_nanosecond_are_texts_too(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"at": pa.array([1_764_504_000_000_000_001], pa.timestamp("ns"))}), path)
    assert read(parquet_table.rows, path)[1] == {"at": "2025-11-30T12:00:00.000000001"}


@pytest.mark.parametrize(
    ("kind", "number", "text"),
    [
        (pa.timestamp("s"), 2**40, "1099511627776"),
        (pa.date64(), 86_400_000 * 10**7, "29349-01-26"),
        (pa.duration("s"), 2**60, "1152921504606846976"),
    ],
    ids=str,
)
def test_moments_that_python_cannot_express_are_texts_too(
    tmp_path: Path, kind: pa.DataType, number: int, text: str
) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"at": pa.array([number], pa.int64()).cast(kind), "prompt": ["p"]}), path)
    row = read(parquet_table.rows, path)[1]
    assert row["prompt"] == "p"
    assert text in row["at"]


def test_a_value_that_cannot_be_read_sets_its_row_aside(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    moments = pa.array([[5], [2**40]], pa.list_(pa.int64())).cast(pa.list_(pa.timestamp("s")))
    parquet.write_table(pa.table({"at": moments, "prompt": ["p", "q"]}), path)
    first, second = read(parquet_table.rows, path).values()
    assert first == {"at": ["1970-01-01T00:00:05"], "prompt": "p"}
    assert "its at can't be read: " in str(second)


def test_a_text_that_is_no_utf_8_sets_its_row_aside(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    texts = pa.array([b"a", b"\xff", b"c"]).view(pa.string())
    parquet.write_table(pa.table({"prompt": texts}), path)
    rows = read(parquet_table.rows, path)
    assert (rows[1], rows[3]) == ({"prompt": "a"}, {"prompt": "c"})
    assert "not UTF-8" in rows[2].misfit.message


def test_few_large_rows_are_held_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"prompt": ["x" * 5_000_000, *"ab"]}), path, use_dictionary=False)
    assert parquet_table._rows_at_once(parquet.read_metadata(path)) <= 5
    assert [len(row["prompt"]) for row in read(parquet_table.rows, path).values()] == [5_000_000, 1, 1]


def test_a_damaged_file_is_refused_with_the_row_that_it_was_read_to(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"prompt": [f"{i:0100d}" for i in range(1000)]}), path, row_group_size=500)
    data = bytearray(path.read_bytes())
    data[4 : 4 + 64] = b"\xff" * 64
    path.write_bytes(data)
    with pytest.raises(UsageError, match=r"a\.parquet is damaged"):
        read(parquet_table.rows, path)
    path.write_bytes(data[:100])
    with pytest.raises(UsageError, match=r"a\.parquet is damaged"):
        parquet_table.columns(path)


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table([pa.array(["a"]), pa.array(["b"])], names=["prompt", "prompt"]), path)
    with pytest.raises(UsageError, match="two columns are named prompt"):
        parquet_table.columns(path)
