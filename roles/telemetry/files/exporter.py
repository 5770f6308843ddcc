"""Serve this machine's telemetry as Prometheus metrics: ``exporter.py --host 127.0.0.1 --port 8599``.

``telemetry.py``, which reads it, lies beside this file. Nothing is read between two scrapes, and NVML is let go of when
nobody asks for a while: a driver that is to be replaced can be unloaded then, and the next scrape finds the new one.
Whoever connects and asks nothing is hung up on: who reaches it may otherwise have as many of its threads as he likes.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import sys
import threading
import time
from collections.abc import Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler

import psutil
import telemetry
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import ThreadingWSGIServer
from prometheus_client.registry import Collector

IDLE_S = 5.0
REQUEST_S = 10.0  # from the connection to the end of the request's headers, and for each part of the answer
MAX_CONNECTIONS = 32
MIB = telemetry.MIB
# By the key of a GPU's reading: the metric, in base units, and what the reading is multiplied by.
READINGS: dict[str, tuple[str, str, float]] = {
    "utilization_percent": ("utilization_ratio", "Part of the last period in which the GPU was busy, 0 to 1", 0.01),
    "memory_used_mib": ("memory_used_bytes", "Memory that is taken", MIB),
    "power_w": ("power_watts", "Power that it draws", 1),
    "power_limit_w": ("power_limit_watts", "Power that it may draw", 1),
    "temperature_c": ("temperature_celsius", "Temperature of the GPU", 1),
    "clock_mhz": ("clock_hertz", "Clock of its processors", 1e6),
}


class Machine(Collector):
    """The metrics of this machine. Scrapes come in threads of the server's; one is answered after the other."""

    def __init__(self, configuration: str) -> None:
        self.outdated = False
        """True where NVML stopped working: the library of a driver that was replaced stays in the process."""
        self._configuration = configuration
        self._lock = threading.Lock()
        self._gpus: telemetry.Gpus | None = None
        self._asked = 0.0
        self._worked = False

    def collect(self) -> Iterable[Metric]:
        """All metrics. A GPU that does not offer one is missing in it."""
        with self._lock:
            self._asked = time.monotonic()
            gpus = self._opened()
            metrics = [*self._machine(), *self._of_gpus(gpus)]
            if not gpus.works:
                self._close()  # the next scrape looks whether it does again
            return metrics

    def let_go(self) -> None:
        """Close NVML when nobody has asked for a while."""
        with self._lock:
            if self._gpus and time.monotonic() - self._asked > IDLE_S:
                self._close()

    def _opened(self) -> telemetry.Gpus:
        if self._gpus is None or not self._gpus.works:
            self._close()
            self._gpus = telemetry.Gpus().__enter__()
            self.outdated = self._worked and not self._gpus.works
            self._worked = self._worked or self._gpus.works
        return self._gpus

    def _close(self) -> None:
        if self._gpus:
            self._gpus.__exit__(None, None, None)
            self._gpus = None

    def _machine(self) -> list[Metric]:
        times, memory = psutil.cpu_times(), psutil.virtual_memory()
        idle = times.idle + getattr(times, "iowait", 0.0)
        # A guest's time is the user's as well.
        guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
        cpu = CounterMetricFamily("llama_nexus_cpu_seconds", "Time of all cores together", labels=["mode"])
        cpu.add_metric(["busy"], sum(times) - guests - idle)
        cpu.add_metric(["idle"], idle)
        used = GaugeMetricFamily(
            "llama_nexus_memory_used_bytes", "Memory that is taken", value=memory.total - memory.available
        )
        total = GaugeMetricFamily("llama_nexus_memory_total_bytes", "Memory of the machine", value=memory.total)
        info = GaugeMetricFamily(
            "llama_nexus_exporter_info", "What this exporter was started with", labels=["configuration"]
        )
        info.add_metric([self._configuration], 1)
        governor = GaugeMetricFamily(
            "llama_nexus_cpu_governor_info", "What decides the clock of the processor's cores", labels=["governor"]
        )
        if clock_governor := telemetry.governor():
            governor.add_metric([clock_governor], 1)
        return [info, cpu, governor, used, total]

    def _of_gpus(self, gpus: telemetry.Gpus) -> list[Metric]:
        states = gpus.read()
        up = GaugeMetricFamily("llama_nexus_nvml_up", "Whether NVML works, 0 on a machine without NVIDIA's driver")
        up.add_metric([], gpus.works)
        error = GaugeMetricFamily("llama_nexus_nvml_error_info", "Why GPUs are missing", labels=["error"])
        if gpus.nvml_error:
            error.add_metric([gpus.nvml_error], 1)
        labels = ["gpu", "uuid"]
        info = GaugeMetricFamily("llama_nexus_gpu_info", "A GPU", labels=[*labels, "name", "driver"])
        memory = GaugeMetricFamily("llama_nexus_gpu_memory_total_bytes", "Memory of the GPU", labels=labels)
        highest = GaugeMetricFamily("llama_nexus_gpu_clock_max_hertz", "Highest clock of its processors", labels=labels)
        joules = CounterMetricFamily("llama_nexus_gpu_energy_joules", "Since the driver was loaded", labels=labels)
        throttled = GaugeMetricFamily(
            "llama_nexus_gpu_throttled", "Whether it is slowed down for this reason", labels=[*labels, "reason"]
        )
        families = {
            key: GaugeMetricFamily(f"llama_nexus_gpu_{name}", text, labels=labels)
            for key, (name, text, _) in READINGS.items()
        }
        names = {gpu.index: [str(gpu.index), gpu.uuid or ""] for gpu in gpus.inventory}
        for gpu in gpus.inventory:
            info.add_metric([*names[gpu.index], gpu.name or "", gpu.driver or ""], 1)
            _add(memory, names[gpu.index], gpu.memory_total_mib, MIB)
        for limit in gpus.limits():
            _add(highest, names[limit["index"]], limit["clock_max_mhz"], 1e6)
        for state in states:
            own = names[state["index"]]
            for key, (_, _, factor) in READINGS.items():
                _add(families[key], own, state[key], factor)
            _add(joules, own, state["energy_j"], 1)
            if state["throttled"] is not None:
                for reason in telemetry.REASONS.values():
                    throttled.add_metric([*own, reason], reason in state["throttled"])
        return [up, error, info, memory, highest, *families.values(), joules, throttled]


class Handler(WSGIRequestHandler):
    """A request, of which nothing is logged."""

    timeout = REQUEST_S  # of a read or a write; the server has one for all of a request
    server: Server

    def parse_request(self) -> bool:
        is_request = super().parse_request()
        self.server.asked(self.connection)
        return is_request

    def log_message(self, *_: Any) -> None:
        """Nothing."""


class Server(ThreadingWSGIServer):
    """HTTP with a thread for each connection, of which there are so many at most.

    A new one takes the place of the oldest that has asked nothing yet; where all have asked, it is hung up on.
    """

    request_queue_size = 128

    def __init__(self, host: str, port: int, registry: CollectorRegistry) -> None:
        self._lock = threading.Lock()
        self._open: dict[socket.socket, float | None] = {}  # since when a request is waited for; the oldest first
        self.address_family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        super().__init__(address, Handler)
        self.set_app(make_wsgi_app(registry))

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            is_full = len(self._open) >= MAX_CONNECTIONS
            oldest = next((one for one, since in self._open.items() if since is not None), None)
            if oldest:
                self._open[request] = time.monotonic()
                if is_full:
                    self._hang_up(oldest)
            elif not is_full:
                self._open[request] = time.monotonic()
            is_taken = request in self._open
        if is_taken:
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def asked(self, request: socket.socket) -> None:
        """The request is there; what is left takes NVML's time."""
        with self._lock:
            if request in self._open:
                self._open[request] = None

    def hang_up_late(self) -> None:
        """End connections over which nothing was asked in time, also those that bring a byte now and then."""
        with self._lock:
            for request, since in list(self._open.items()):
                if since is not None and time.monotonic() - since > REQUEST_S:
                    self._hang_up(request)

    def _hang_up(self, request: socket.socket) -> None:
        self._open.pop(request, None)  # its thread finds an end, and closes it
        with contextlib.suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # who asked is gone, or takes too long
            super().handle_error(request, client_address)


def _add(family: Any, labels: list[str], value: float | None, factor: float) -> None:
    if value is not None:
        family.add_metric(labels, value * factor)


def main() -> int:
    """Serve until the process is ended; 1 when it has to be started over, for NVML's sake."""
    parser = argparse.ArgumentParser(description="Serve this machine's telemetry as Prometheus metrics.")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8599, help="(default: %(default)s)")
    parser.add_argument("--configuration", default="", help="a name of what decides this exporter, told to who asks")
    options = parser.parse_args()
    registry = CollectorRegistry()
    machine = Machine(options.configuration)
    try:
        registry.register(machine)
        server = Server(options.host, options.port, registry)
    except OSError as error:
        return _say(f"can't listen on {options.host} port {options.port}: {error.strerror}")
    _say(f"listening on {options.host} port {options.port}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    while not machine.outdated:
        time.sleep(1)
        machine.let_go()
        server.hang_up_late()
    return _say("NVML does not work any more: starting over, with the library that is there now")


def _say(line: str) -> int:
    sys.stderr.write(f"exporter: {line}\n")
    sys.stderr.flush()
    return 1


if __name__ == "__main__":
    sys.exit(main())
