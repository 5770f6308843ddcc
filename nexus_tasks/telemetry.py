"""What this machine did meanwhile: CPU and memory by psutil, NVIDIA GPUs by NVML, sampled in a thread.

    with telemetry.Gpus() as gpus, telemetry.Sampler(gpus, origin=time.perf_counter()) as sampler:
        ...                                 # the work
        rows = sampler.take()               # ``sample`` rows since the last call

A machine without NVML has no GPUs in its rows, and ``nvml_error`` says why. A metric that one GPU does not
offer is null in its rows and costs the others nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Self

import psutil
import pynvml

INTERVAL_S = 0.5
MIB = 1024 * 1024

Clock = Callable[[], float]


@dataclass(frozen=True)
class Gpu:
    """One GPU of this machine, as records name it."""

    index: int
    name: str | None
    driver: str | None
    memory_total_mib: int | None


class Gpus:
    """The GPUs that NVML sees. Use as a context manager; without NVML there are none."""

    def __init__(self) -> None:
        self.inventory: list[Gpu] = []
        self.nvml_error: str | None = None
        self._handles: list[tuple[int, Any]] = []
        self._loaded = False

    def __enter__(self) -> Self:
        try:
            pynvml.nvmlInit()
            self._loaded = True
            count = pynvml.nvmlDeviceGetCount()
        except pynvml.NVMLError as error:
            self.nvml_error = str(error)
            return self
        driver = _ask(pynvml.nvmlSystemGetDriverVersion)
        for index in range(count):
            # A GPU that fell off the bus keeps its index; the others are still there.
            handle = _ask(pynvml.nvmlDeviceGetHandleByIndex, index)
            if handle is None:
                self.nvml_error = f"GPU {index} does not answer"
                continue
            memory = _ask(pynvml.nvmlDeviceGetMemoryInfo, handle)
            total = None if memory is None else memory.total // MIB
            self._handles.append((index, handle))
            self.inventory.append(Gpu(index, _ask(pynvml.nvmlDeviceGetName, handle), driver, total))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loaded:
            _ask(pynvml.nvmlShutdown)

    def as_rows(self) -> list[dict[str, Any]]:
        """The inventory for a record's header."""
        return [asdict(gpu) for gpu in self.inventory]

    def read(self) -> list[dict[str, Any]]:
        """The present state of each GPU, for a ``sample`` row."""
        return [_state(index, handle) for index, handle in self._handles]


class Sampler:
    """Samples from the moment the ``with`` block is entered until it is left.

    Args:
        interval_s: seconds between samples.
        origin: the clock's reading at which the run began: ``t_s`` counts from there.
        clock: seconds, monotonic.
    """

    def __init__(
        self, gpus: Gpus, *, interval_s: float = INTERVAL_S, origin: float, clock: Clock = time.perf_counter
    ) -> None:
        self._gpus = gpus
        self._interval_s = interval_s
        self._origin = origin
        self._clock = clock
        self._rows: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End sampling with one last sample, so that a short run has one too."""
        if not self._stop.is_set():
            self._stop.set()
            self._thread.join()

    def take(self) -> list[dict[str, Any]]:
        """The rows since the last call, oldest first."""
        with self._lock:
            rows, self._rows = self._rows, []
        return rows

    def _run(self) -> None:
        psutil.cpu_percent()  # a thread's first call only marks where its next one counts from
        stopped = False
        while not stopped:
            stopped = self._stop.wait(self._interval_s)
            row = self._sample()
            with self._lock:
                self._rows.append(row)

    def _sample(self) -> dict[str, Any]:
        memory = psutil.virtual_memory()
        return {
            "type": "sample",
            "t_s": round(self._clock() - self._origin, 4),
            "cpu_percent": psutil.cpu_percent(),
            "memory_used_mib": (memory.total - memory.available) // MIB,
            "gpus": self._gpus.read(),
        }


def _state(index: int, handle: Any) -> dict[str, Any]:
    utilization = _ask(pynvml.nvmlDeviceGetUtilizationRates, handle)
    memory = _ask(pynvml.nvmlDeviceGetMemoryInfo, handle)
    power_mw = _ask(pynvml.nvmlDeviceGetPowerUsage, handle)
    return {
        "index": index,
        "utilization_percent": None if utilization is None else utilization.gpu,
        "memory_used_mib": None if memory is None else memory.used // MIB,
        "power_w": None if power_mw is None else power_mw / 1000,
        "temperature_c": _ask(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU),
    }


def _ask(question: Callable[..., Any], *arguments: Any) -> Any:
    """The answer of an NVML function, or None where this GPU or driver has none."""
    try:
        return question(*arguments)
    except pynvml.NVMLError:
        return None
