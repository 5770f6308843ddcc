"""Tables of nvidia-smi. Python 3.9's standard library only.

query(["index", "memory.free"])                        [{"index": "0", "memory.free": "22480"}]
query(["pid", "used_memory"], table="compute-apps")
number("[N/A]")                                        None
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from . import programs

PROGRAM = "nvidia-smi"
UNKNOWN_FIELD = re.compile(r'Field "([^"]*)" is not a valid field')


OLDEST_DRIVER = 525  # for CUDA 12; it knows all fields that are asked for


class SmiError(Exception):
    """nvidia-smi shows no table; its own words why, one line of at most 300 characters."""


class SmiMissing(SmiError):
    """There is no nvidia-smi."""


def query(fields: Sequence[str], *, table: str = "gpu") -> list[dict[str, str]]:
    """The rows of a table, each with the text of these fields.

    Args:
        fields: as ``nvidia-smi --help-query-<table>`` lists them. What lacks one is left out: a name with a comma does.
        table: ``gpu`` or ``compute-apps``.

    Raises SmiMissing and SmiError; also where it ends well and prints something else than a table.
    """
    try:
        done = programs.run([PROGRAM, f"--query-{table}={','.join(fields)}", "--format=csv,noheader,nounits"])
    except programs.NotStarted as error:
        raise (SmiMissing if error.is_missing else SmiError)(str(error)) from error
    except programs.ProgramError as error:
        raise SmiError(str(error)) from error
    unknown = UNKNOWN_FIELD.search(done.output)
    if unknown:
        raise SmiError(
            f"nvidia-smi does not know {unknown[1]}, so it or the driver is older than {OLDEST_DRIVER}, which is "
            "required: install a newer driver, with its own nvidia-smi"
        )
    rows = parse(done.output, fields)
    if done.status != 0 or (not rows and done.output.strip()):
        raise SmiError(" ".join(done.output.split())[:300] or f"exit status {done.status}")
    return rows


def parse(text: str, fields: Sequence[str]) -> list[dict[str, str]]:
    """The rows in what was printed; lines with another number of cells are warnings."""
    lines = [[cell.strip() for cell in line.split(",")] for line in text.splitlines()]
    return [dict(zip(fields, cells)) for cells in lines if len(cells) == len(fields)]


def number(text: str) -> float | None:
    """The number in a cell; None for what the GPU doesn't tell, as one with unified memory of its size."""
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else None
