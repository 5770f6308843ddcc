"""Scrapes what servers tell of themselves: llama-server, and the exporter of role ``telemetry``.

    with scrape.Source("rig-1/main", "http://rig-1:8600", api_key) as source:
        look = source.look()
        look.server.slots_busy, look.server.waiting, look.problem

    sampling.Sampler(gpus, origin=origin, sources=[source])        # beside a measurement

A look at llama-server is two short requests, of ``/metrics`` and ``/slots``, which it answers between two steps of
decoding. What it does not offer (``/metrics`` without ``--metrics``, ``/slots`` with ``--no-slots``) is not asked for
again.

Of these only ``/slots`` wakes a server that sleeps, and keeps one from going to sleep. So it is not asked for while
``/metrics`` counts no request, and without those not while ``/props`` says that the server sleeps.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self

import httpx
import psutil
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from nexus_tasks.hostlib.terminal_text import plain
from nexus_tasks.servers import answers, client
from nexus_tasks.telemetry import sampling

TIMEOUT_S = 2.0
"""The longest silence of a source."""
# What llama-server answers where it was started without, and a router where no model is named.
NOT_OFFERED = (httpx.codes.BAD_REQUEST, httpx.codes.NOT_FOUND, httpx.codes.METHOD_NOT_ALLOWED, 501)
EXPORTER, SERVER = "llama_nexus_", "llamacpp:"
NOTHING: dict[str, Any] = {"cpu_percent": None, "memory_used_mib": None, "gpus": [], "server": None}
MIB = sampling.MIB

Row = dict[str, Any]


@dataclass(frozen=True)
class Machine:
    """A machine at one moment. ``gpus`` are those of ``sample`` rows.

    ``inventory`` has of each GPU ``index``, ``name``?, ``driver``?, ``memory_total_mib``?, ``clock_max_mhz``?.
    ``nvml_error`` is why GPUs are missing.
    """

    cpu_busy_s: float
    cpu_idle_s: float
    memory_used_mib: int
    memory_total_mib: int
    gpus: list[Row]
    inventory: list[Row]
    governor: str | None
    nvml_error: str | None = None

    def host_state(self) -> Row:
        """As :func:`sampling.host_state` has it of this machine."""
        return {
            "driver": next((gpu["driver"] for gpu in self.inventory), None),
            "power_limit_w": [gpu["power_limit_w"] for gpu in self.gpus] or None,
            "clocks_max_mhz": [gpu["clock_max_mhz"] for gpu in self.inventory] or None,
            "governor": self.governor,
        }


@dataclass(frozen=True)
class Server:
    """A llama-server at one moment; what it does not tell is None.

    ``predicted_tokens_total`` counts what is being generated as well; the server's own counter has a request's tokens
    when it has ended. ``cached_tokens`` are those that its slots hold. ``tasks`` has the prompt tokens processed and
    the tokens generated so far of what the slots work on, by slot and task.
    """

    slots_busy: int | None = None
    slots: int | None = None
    waiting: int | None = None
    prompt_tokens_total: int | None = None
    predicted_tokens_total: int | None = None
    cached_tokens: int | None = None
    tasks: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)

    def as_row(self) -> Row:
        """For a ``sample`` row."""
        return {
            "slots_busy": self.slots_busy,
            "slots": self.slots,
            "waiting": self.waiting,
            "prompt_tokens_total": self.prompt_tokens_total,
            "predicted_tokens_total": self.predicted_tokens_total,
        }


@dataclass(frozen=True)
class Look:
    """Answer of a source at a moment of ``time.monotonic``; ``problem`` is why it told nothing, in a few words."""

    at: float
    machine: Machine | None = None
    server: Server | None = None
    problem: str | None = None


class Source:
    """An exporter or a llama-server, whichever answers at the address.

    Args:
        name: the ``source`` of its sample rows.
        url: the base URL.
        api_key: llama-server wants it for both. It is in a header and nowhere else.
        wants: the one that it has to be.
        may_sleep: whether it is a llama-server that is known to unload its model on idle. Without ``/metrics`` nothing
            tells of its slots then but ``/slots``, which is not asked for.
    """

    def __init__(
        self,
        name: str,
        url: str,
        api_key: str | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
        wants: type[Machine] | type[Server] | None = None,
        may_sleep: bool = False,
    ) -> None:
        self.name = name
        self._may_sleep = may_sleep
        self._idle_slots: list[Row] | None = None  # of a server that is the same, without requests
        self._had_work = False
        self._wants = wants
        self._client = client.connect(url, api_key, timeout_s=timeout_s)
        self._client.timeout = httpx.Timeout(timeout_s)
        self._timeout_s = timeout_s
        self._not_offered: set[str] = set()
        self._before: Look | None = None
        self._predicted = (0, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()

    def look(self) -> Look:
        """Ask now. Does not raise: what went wrong is in ``problem``."""
        try:
            metrics = self._metrics()
            if any(name.startswith(EXPORTER) for name in metrics):
                if self._wants is Server:
                    raise _Problem("is an exporter of role telemetry and no llama-server")
                return Look(time.monotonic(), machine=machine_of(metrics))
            # In this order: a request that ends in between is missing for a moment, and never counted twice.
            slots = self._slots_gently(metrics)
            if metrics and slots is None and not any(name.startswith(SERVER) for name in metrics):
                raise _Problem("is neither a llama-server nor an exporter of role telemetry")
            if self._wants is Machine:
                raise _Problem("is no exporter of role telemetry: something else has its port")
            return Look(time.monotonic(), server=self._steady(server_of(metrics, slots)))
        # The right names with something else behind them.
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
            return Look(time.monotonic(), problem="answers something else than this version knows")
        except _Problem as problem:
            self._not_offered.clear()  # what comes back may have been started otherwise
            self._idle_slots = None
            return Look(time.monotonic(), problem=str(problem))

    def sample(self) -> Row:
        """The part of a ``sample`` row about this moment; all null where the source does not answer."""
        before, self._before = self._before, self.look()
        row = dict(NOTHING)
        if machine := self._before.machine:
            row |= {"memory_used_mib": machine.memory_used_mib, "gpus": machine.gpus}
            row["cpu_percent"] = cpu_percent(before.machine if before else None, machine)
        if self._before.server:
            row["server"] = self._before.server.as_row()
        return row

    def _metrics(self) -> dict[str, Metric]:
        text = self._get("/metrics")
        if text is None:
            return {}
        try:
            return {family.name: family for family in text_string_to_metric_families(text)}
        except ValueError as error:
            raise _Problem("what it has at /metrics is not Prometheus' format") from error

    def _slots_gently(self, metrics: Mapping[str, Metric]) -> list[Row] | None:
        """The slots, as ``/slots`` has them where there may be work; None where the server does not tell."""
        if "/slots" in self._not_offered:
            return None
        counts = _totals(metrics)
        requests = [counts.get(f"{SERVER}requests_{state}") for state in ("processing", "deferred")]
        is_idle = requests[0] is not None and not any(requests)
        if requests[0] is None and (self._may_sleep or not self._had_work):
            is_idle = bool(self._props().get("is_sleeping"))
            if self._may_sleep and not is_idle:
                return None
        if is_idle:
            if self._idle_slots is None:
                # What they hold, /slots alone would tell.
                count = self._props().get("total_slots", 0)
                self._idle_slots = [{"id": number, "n_prompt_tokens": None} for number in range(count)]
            return self._idle_slots
        slots = self._slots()
        if slots is not None:
            self._had_work = any(slot.get("is_processing") for slot in slots)
            self._idle_slots = [{key: slot[key] for key in ("id", "n_prompt_tokens") if key in slot} for slot in slots]
        return slots

    def _props(self) -> Row:
        text = self._get("/props")
        return answers.object_of(answers.json_of(text)) if text else {}

    def _slots(self) -> list[Row] | None:
        text = self._get("/slots")
        if text is None:
            return None
        try:
            slots = answers.json_of(text)
        except ValueError:
            slots = None
        if not isinstance(slots, list) or not all(isinstance(slot, dict) for slot in slots):
            raise _Problem("what it has at /slots are not llama-server's")
        return slots

    def _get(self, path: str) -> str | None:
        """The text there; None where the server does not offer it."""
        if path in self._not_offered:
            return None
        try:
            response = self._client.get(path)
        except httpx.TimeoutException as error:
            raise _Problem(f"no answer within {self._timeout_s:g} s") from error
        except httpx.RequestError as error:  # one that is no TransportError: an answer that can't be decoded
            raise _Problem(_why(error)) from error
        except RuntimeError as error:  # as httpx says it
            raise _Problem("was closed meanwhile") from error
        match response.status_code:
            case httpx.codes.OK:
                return response.text
            case status if status in NOT_OFFERED:
                self._not_offered.add(path)
                return None
            case httpx.codes.UNAUTHORIZED | httpx.codes.FORBIDDEN:
                given = "refuses its key" if "authorization" in self._client.headers else "wants an API key"
                raise _Problem(given)
            case httpx.codes.SERVICE_UNAVAILABLE:
                raise _Problem("is loading its model")
            case status:
                raise _Problem(f"answers HTTP {status} at {path}")

    def _steady(self, server: Server) -> Server:
        """With a count of generated tokens that goes back only when the server was started again."""
        total, finished = server.predicted_tokens_total, self._predicted
        if total is None:
            return server
        done = total - sum(generated for _, generated in server.tasks.values())
        if done >= finished[0]:
            total = max(total, finished[1])
        self._predicted = (done, total)
        return replace(server, predicted_tokens_total=total)


class _Problem(Exception):
    """There is nothing to be told, and why."""


def machine_of(metrics: Mapping[str, Metric]) -> Machine:
    """The machine that the exporter's metrics tell of, by the names of roles/telemetry/files/exporter.py."""
    cpu = {labels["mode"]: value for labels, value in _values(metrics, "cpu_seconds")}
    governors = [labels["governor"] for labels, value in _values(metrics, "cpu_governor_info") if value]
    used = next((value for _, value in _values(metrics, "memory_used_bytes")), 0.0)
    total = next((value for _, value in _values(metrics, "memory_total_bytes")), 0.0)
    known = {name: _by_gpu(metrics, name) for name in (
        "utilization_ratio", "memory_used_bytes", "power_watts", "power_limit_watts", "energy_joules",
        "temperature_celsius", "clock_hertz", "memory_total_bytes", "clock_max_hertz",
    )}  # fmt: skip
    reasons: dict[int, list[str]] = {}
    for labels, value in _values(metrics, "gpu_throttled"):
        reasons.setdefault(int(labels["gpu"]), []).extend([labels["reason"]] if value else [])
    gpus, inventory = [], []
    for index, labels in sorted((int(labels["gpu"]), labels) for labels, _ in _values(metrics, "gpu_info")):
        gpus.append(
            {
                "index": index,
                "utilization_percent": _scaled(known["utilization_ratio"].get(index), 100),
                "memory_used_mib": _scaled(known["memory_used_bytes"].get(index), 1 / MIB),
                "power_w": known["power_watts"].get(index),
                "power_limit_w": known["power_limit_watts"].get(index),
                "energy_j": known["energy_joules"].get(index),
                "temperature_c": _scaled(known["temperature_celsius"].get(index), 1),
                "clock_mhz": _scaled(known["clock_hertz"].get(index), 1e-6),
                "throttled": reasons.get(index),
            }
        )
        inventory.append(
            {
                "index": index,
                "name": labels["name"] or None,
                "driver": labels["driver"] or None,
                "memory_total_mib": _scaled(known["memory_total_bytes"].get(index), 1 / MIB),
                "clock_max_mhz": _scaled(known["clock_max_hertz"].get(index), 1e-6),
            }
        )
    return Machine(
        cpu.get("busy", 0.0), cpu.get("idle", 0.0), int(used // MIB), int(total // MIB), gpus, inventory,
        governors[0] if governors else None,
        next((labels["error"] for labels, value in _values(metrics, "nvml_error_info") if value), None),
    )  # fmt: skip


def this_machine(gpus: sampling.Gpus) -> Machine:
    """The same of this machine, without an exporter."""
    times, memory = psutil.cpu_times(), psutil.virtual_memory()
    idle = times.idle + getattr(times, "iowait", 0.0)
    guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    limits = {limit["index"]: limit["clock_max_mhz"] for limit in gpus.limits()}
    states = gpus.read()
    return Machine(
        sum(times) - guests - idle, idle, (memory.total - memory.available) // MIB, memory.total // MIB, states,
        [{**row, "clock_max_mhz": limits[row["index"]]} for row in gpus.as_rows()], sampling.governor(),
        gpus.nvml_error,
    )  # fmt: skip


def cpu_percent(before: Machine | None, now: Machine) -> float | None:
    """Busy share of all cores between two looks; None after the first, and where the machine was started again."""
    if before is None:
        return None
    # Sums of what Linux counts in hundredths of a second, some of which may run back a little (proc(5), iowait).
    busy, idle = (
        0.0 if -1 < later - sooner < 0 else later - sooner
        for sooner, later in ((before.cpu_busy_s, now.cpu_busy_s), (before.cpu_idle_s, now.cpu_idle_s))
    )
    return round(100 * busy / (busy + idle), 1) if busy >= 0 and idle >= 0 and busy + idle > 0 else None


def server_of(metrics: Mapping[str, Metric], slots: Sequence[Row] | None) -> Server:
    """The llama-server that its metrics tell of, or its slots, or both."""
    totals = _totals(metrics)

    def count(name: str) -> int | None:
        value = totals.get(f"{SERVER}{name}")
        return None if value is None else int(value)

    if slots is None:
        return Server(
            slots_busy=count("requests_processing"), waiting=count("requests_deferred"),
            prompt_tokens_total=count("prompt_tokens"), predicted_tokens_total=count("tokens_predicted"),
        )  # fmt: skip
    tasks = {
        (slot.get("id", number), slot["id_task"]): (slot.get("n_prompt_tokens_processed", 0), _generated(slot))
        for number, slot in enumerate(slots)
        if "id_task" in slot
    }
    predicted = count("tokens_predicted")
    held = [slot.get("n_prompt_tokens", 0) for slot in slots]
    return Server(
        slots_busy=sum(bool(slot.get("is_processing")) for slot in slots),
        slots=len(slots),
        waiting=count("requests_deferred"),
        prompt_tokens_total=count("prompt_tokens"),
        predicted_tokens_total=None if predicted is None else predicted + sum(made for _, made in tasks.values()),
        cached_tokens=None if None in held else sum(held),
        tasks=tasks,
    )


def _totals(metrics: Mapping[str, Metric]) -> dict[str, float | None]:
    return {name: next((s.value for s in family.samples), None) for name, family in metrics.items()}


def _generated(slot: Mapping[str, Any]) -> int:
    following = slot.get("next_token") or [{}]
    return int((following[0] if isinstance(following, list) else following).get("n_decoded", 0))


def _values(metrics: Mapping[str, Metric], name: str) -> Iterable[tuple[dict[str, str], float]]:
    family = metrics.get(f"{EXPORTER}{name}")
    if not family:
        return []
    return [({key: plain(text) for key, text in sample.labels.items()}, sample.value) for sample in family.samples]


def _by_gpu(metrics: Mapping[str, Metric], name: str) -> dict[int, float]:
    return {int(labels["gpu"]): value for labels, value in _values(metrics, f"gpu_{name}")}


def _scaled(value: float | None, factor: float) -> int | None:
    """In the unit of sample rows, where it is a whole number."""
    return None if value is None else round(value * factor)


def _why(error: BaseException) -> str:
    """The operating system's error below httpx's."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror[0].lower() + cause.strerror[1:]
        cause = cause.__cause__ or cause.__context__
    return str(error) or "the connection broke off"
