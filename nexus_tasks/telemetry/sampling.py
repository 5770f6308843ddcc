"""The sampler: CPU and memory by psutil, NVIDIA GPUs by NVML, and whatever other sources offer.

    with sampling.Gpus() as gpus, sampling.Sampler(gpus, origin=time.perf_counter(), sources=[...]) as sampler:
        ...                                 # the work
        rows = sampler.take()               # ``sample`` rows since the last call

A machine without NVML has no GPUs in its rows, and ``nvml_error`` says why. A metric that one GPU does not
offer is null in its rows and costs the others nothing.

Role ``telemetry`` places this file beside its exporter, so it needs psutil and pynvml alone and runs on Python 3.9.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import psutil
import pynvml

INTERVAL_S = 0.5
MIB = 1024 * 1024
LAST_S = 1.0
"""The longest that all sources and this machine together may take for their last sample."""
CLIENT = "client"
"""The ``source`` of samples of the machine that this runs on."""
NO_LIBRARY = str(pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND))
"""The ``nvml_error`` of a machine without NVIDIA's driver."""
# Of NVML's reasons for a clock below the highest: an idle GPU, and clocks that somebody has set, are not slowed down.
REASONS = {
    0x004: "sw_power_cap",
    0x008: "hw_slowdown",
    0x010: "sync_boost",
    0x020: "sw_thermal_slowdown",
    0x040: "hw_thermal_slowdown",
    0x080: "hw_power_brake_slowdown",
    0x200: "board_limit",
    0x400: "reliability",
}
GOVERNORS = Path("/sys/devices/system/cpu")

Clock = Callable[[], float]
Row = dict[str, Any]


class Source(Protocol):
    """Something else to sample: :class:`nexus_tasks.servers.scrape.Source`."""

    @property
    def name(self) -> str:
        """The ``source`` of its rows."""

    def sample(self) -> Mapping[str, Any]:
        """``cpu_percent``, ``memory_used_mib``, ``gpus`` and ``server`` of this moment; what it does not tell is null.

        May take its time. Does not raise: a source that does not answer tells nothing.
        """

    def close(self) -> None:
        """Let go of its connection."""


@dataclass(frozen=True)
class Gpu:
    """One GPU of this machine, as records name it."""

    index: int
    name: str | None
    driver: str | None
    memory_total_mib: int | None
    uuid: str | None = None


class Gpus:
    """The GPUs that NVML sees. Use as a context manager; without NVML there are none."""

    def __init__(self) -> None:
        self.inventory: list[Gpu] = []
        self.nvml_error: str | None = None
        self._handles: list[tuple[int, Any]] = []
        self._absent: list[int] = []
        self._silent: list[int] = []
        self._loaded = False
        self._reading = threading.Lock()

    def __enter__(self) -> Gpus:
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
                self._absent.append(index)
                continue
            memory = _ask(pynvml.nvmlDeviceGetMemoryInfo, handle)
            total = None if memory is None else memory.total // MIB
            name, uuid = _ask(pynvml.nvmlDeviceGetName, handle), _ask(pynvml.nvmlDeviceGetUUID, handle)
            self._handles.append((index, handle))
            self.inventory.append(Gpu(index, name, driver, total, uuid))
        self.nvml_error = _not_answering(self._absent)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A GPU that fails can hold up NVML for minutes; who waits for it in a reading has the library until then.
        if self._loaded and self._reading.acquire(timeout=LAST_S):
            _ask(pynvml.nvmlShutdown)
            self._reading.release()

    @property
    def works(self) -> bool:
        """True where NVML works; with GPUs that answer, others may have been lost."""
        return self.nvml_error is None or len(self._silent) < len(self._handles)

    def as_rows(self) -> list[Row]:
        """The inventory for a record's header."""
        return [
            {"index": gpu.index, "name": gpu.name, "driver": gpu.driver, "memory_total_mib": gpu.memory_total_mib}
            for gpu in self.inventory
        ]

    def read(self) -> list[Row]:
        """The present state of each GPU, for a ``sample`` row. ``nvml_error`` is what it is now."""
        with self._reading:
            states = [_state(index, handle) for index, handle in self._handles]
        self._silent = [state["index"] for state in states if not _tells(state)]
        if self._handles:
            self.nvml_error = _not_answering([*self._absent, *self._silent])
        return states

    def limits(self) -> list[Row]:
        """The limits of each GPU: ``index``, ``power_limit_w``?, ``clock_max_mhz``? (of its processors)."""
        return [
            {
                "index": index,
                "power_limit_w": _thousandth(_ask(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)),
                "clock_max_mhz": _ask(pynvml.nvmlDeviceGetMaxClockInfo, handle, pynvml.NVML_CLOCK_SM),
            }
            for index, handle in self._handles
        ]


class Sampler:
    """Samples from the moment the ``with`` block is entered until it is left.

    Each source is asked in a thread of its own: one that is slow or dead delays neither the others nor the work, and
    its rows hold null for what it did not tell.

    Args:
        interval_s: seconds between samples.
        origin: the clock's reading at which the run began: ``t_s`` counts from there.
        clock: seconds, monotonic.
        sources: what to sample beside this machine. They are closed at the end.
    """

    def __init__(
        self,
        gpus: Gpus,
        *,
        interval_s: float = INTERVAL_S,
        origin: float,
        clock: Clock = time.perf_counter,
        sources: Iterable[Source] = (),
    ) -> None:
        self._gpus = gpus
        self._interval_s = interval_s
        self._origin = origin
        self._clock = clock
        self._rows: list[Row] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)
        self._others = [
            threading.Thread(target=self._follow, args=(source,), name=f"telemetry of {source.name}", daemon=True)
            for source in sources
        ]

    def __enter__(self) -> Sampler:
        for thread in (self._thread, *self._others):
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End sampling with one last sample, so that a short run has one too.

        A source that takes more than LAST_S for it is not waited for, and nor is NVML.
        """
        if not self._stop.is_set():
            self._stop.set()
            deadline = time.monotonic() + LAST_S
            for thread in (self._thread, *self._others):
                thread.join(max(0.0, deadline - time.monotonic()))

    def take(self) -> list[Row]:
        """The rows since the last call, oldest first."""
        with self._lock:
            rows, self._rows = self._rows, []
        return rows

    def _run(self) -> None:
        psutil.cpu_percent()  # a thread's first call only marks where its next one counts from
        stopped = False
        while not stopped:
            stopped = self._stop.wait(self._interval_s)
            memory = psutil.virtual_memory()
            self._keep(
                CLIENT,
                self._clock(),
                {
                    "cpu_percent": psutil.cpu_percent(),
                    "memory_used_mib": (memory.total - memory.available) // MIB,
                    "gpus": self._gpus.read(),
                    "server": None,
                },
            )

    def _follow(self, source: Source) -> None:
        stopped = False
        while not stopped:  # at once, because counters are worth something from the second time on
            stopped = self._stop.is_set()
            state = source.sample()
            self._keep(source.name, self._clock(), state)
            self._stop.wait(self._interval_s)
        source.close()

    def _keep(self, name: str, at: float, state: Mapping[str, Any]) -> None:
        row = {"type": "sample", "t_s": round(at - self._origin, 4), "source": name, **state}
        with self._lock:
            self._rows.append(row)


def host_state(gpus: Gpus | None = None) -> Row:
    """The settings that must agree for the figures of two runs on this machine to be comparable.

    ``driver``?, ``power_limit_w``? and ``clocks_max_mhz``? (a list each, by GPU), ``governor``? of the processor.
    """
    if gpus is None:
        with Gpus() as opened:
            return host_state(opened)
    limits = gpus.limits()
    return {
        "driver": next((gpu.driver for gpu in gpus.inventory), None),
        "power_limit_w": [limit["power_limit_w"] for limit in limits] or None,
        "clocks_max_mhz": [limit["clock_max_mhz"] for limit in limits] or None,
        "governor": governor(),
    }


def governor(root: Path = GOVERNORS) -> str | None:
    """The governor of the clocks of the processor's cores; several where they differ, None where there is none."""
    names = set()
    for path in root.glob("cpu[0-9]*/cpufreq/scaling_governor"):
        try:
            names.add(path.read_text(encoding="ascii").strip())
        except OSError:  # a core that went offline
            continue
    return "+".join(sorted(names)) or None


def _state(index: int, handle: Any) -> Row:
    utilization = _ask(pynvml.nvmlDeviceGetUtilizationRates, handle)
    memory = _ask(pynvml.nvmlDeviceGetMemoryInfo, handle)
    reasons = _ask(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle)  # the name that every driver knows
    return {
        "index": index,
        "utilization_percent": None if utilization is None else utilization.gpu,
        "memory_used_mib": None if memory is None else memory.used // MIB,
        "power_w": _thousandth(_ask(pynvml.nvmlDeviceGetPowerUsage, handle)),
        "power_limit_w": _thousandth(_ask(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)),
        "energy_j": _thousandth(_ask(pynvml.nvmlDeviceGetTotalEnergyConsumption, handle)),
        "temperature_c": _ask(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU),
        "clock_mhz": _ask(pynvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_SM),
        "throttled": None if reasons is None else [name for bit, name in REASONS.items() if reasons & bit],
    }


def _tells(state: Row) -> bool:
    """True where a GPU tells anything. One that fell off the bus does not."""
    return any(value is not None for name, value in state.items() if name != "index")


def _not_answering(gpus: Sequence[int]) -> str | None:
    if not gpus:
        return None
    return f"GPU {', '.join(map(str, sorted(gpus)))} {'does' if len(gpus) == 1 else 'do'} not answer"


def _thousandth(value: int | None) -> float | None:
    """Watts of milliwatts, joules of millijoules."""
    return None if value is None else value / 1000


def _ask(question: Callable[..., Any], *arguments: Any) -> Any:
    """The answer of an NVML function, or None where this GPU or driver has none."""
    try:
        return question(*arguments)
    except pynvml.NVMLError:
        return None
