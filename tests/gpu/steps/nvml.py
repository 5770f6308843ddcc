"""Claims of the fake NVML, held against the driver's library, and what telemetry makes of that one."""

from __future__ import annotations

import contextlib
import ctypes
import re
import time
from collections.abc import Iterator

import pynvml

from nexus_tasks.servers import scrape
from nexus_tasks.telemetry import sampling
from tests import exporter
from tests.conftest import ROOT, free_port
from tests.gpu.rows import DIFFERS, NotRun, Report
from tests.gpu.steps.place import Place
from tests.gpu.steps.waiting import answers, wait


def nvml(place: Place, report: Report) -> None:
    """Whether the driver's library is what the stand-in claims, and what telemetry makes of it."""
    source = (ROOT / "tests/fakes/nvml.c").read_text()
    numbers = dict(re.findall(r"(\w+) = (\d+)", re.search(r"enum \{(.*?)\}", source, re.DOTALL)[1]))  # type: ignore[index]  # ours has it
    for name, number in numbers.items():
        found = getattr(pynvml, f"NVML_{name}", getattr(pynvml, f"NVML_ERROR_{name}", None))
        report.claim(f"NVML's number of {name}", found == int(number), found, number)
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError as error:
        raise NotRun(f"the driver's library is not here: {error}") from error
    functions = re.findall(r"^(?:int|const char \*) ?(nvml\w+)\(", source, re.MULTILINE)
    missing = [name for name in functions if not hasattr(library, name)]
    report.claim(
        "functions of the library", not missing, ", ".join(missing) or f"all {len(functions)}", "all are there"
    )
    with sampling.Gpus() as gpus:
        report.add(
            "telemetry finds no fault", gpus.nvml_error is None, gpus.nvml_error or f"{len(gpus.inventory)} GPUs"
        )
        by_smi = [(gpu["name"], gpu["driver"], gpu["memory_mib"]) for gpu in place.gpus]
        by_nvml = [(gpu.name, gpu.driver, gpu.memory_total_mib) for gpu in gpus.inventory]
        report.add("NVML and nvidia-smi name the same GPUs", by_nvml == by_smi, by_nvml, f"nvidia-smi: {by_smi}")
        rows = gpus.read()
        for row in rows:
            for name, value in row.items():
                known = value is not None
                report.add(
                    f"GPU {row['index']}: {name}", known or DIFFERS, value, "" if known else "telemetry expects one"
                )
        before = [row["energy_j"] for row in rows]
        time.sleep(1)  # a counter has to be seen counting
        after = [row["energy_j"] for row in gpus.read()]
        grows = all(a is not None and b is not None and a > b for a, b in zip(after, before, strict=True))
        report.add("the counter of energy counts", grows or DIFFERS, f"{before} J, a second later {after} J")
        report.add("limits", None not in [value for row in gpus.limits() for value in row.values()], gpus.limits())
    with run_exporter() as url, scrape.Source("here", url) as scraped:
        seen = scraped.look().machine
        total = [gpu["memory_used_mib"] for gpu in seen.gpus] if seen else []
        report.add(
            "the exporter tells the same", bool(seen) and len(total) == len(place.gpus) and None not in total,
            f"memory used: {total} MiB", str(seen and seen.nvml_error),
        )  # fmt: skip


@contextlib.contextmanager
def run_exporter() -> Iterator[str]:
    """The exporter, without its role; its address."""
    port = free_port()
    with exporter.run("--port", str(port)) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            wait(lambda: answers(f"{url}/metrics"), "the exporter")
            yield url
        finally:
            process.kill()
