"""An exporter of role telemetry whose one GPU takes 100 W, by its counter; it may have none, or one that tells nothing.

with FakeExporter() as fake:
    Exporter("rig-1", fake.address)
"""

from __future__ import annotations

import http.server
import threading
import time

POWER_W = 100.0
COUNTER = "llama_nexus_gpu_energy_joules_total"
INFO = 'llama_nexus_gpu_info{gpu="0",name="Test GPU",driver="580"} 1\n'


class FakeExporter:
    """Listens on loopback while the block lasts; ``asked`` counts the scrapes."""

    def __init__(self, *, gpus: int = 1, counts: bool = True) -> None:
        self.asked = 0
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                fake.asked += 1
                body = f"llama_nexus_memory_used_bytes 1\n{_gpu(counts) if gpus else ''}".encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in http.server
                """Nothing is logged."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FakeExporter:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _gpu(counts: bool) -> str:
    if not counts:
        return INFO
    joules = 1e6 + POWER_W * time.perf_counter()
    return f'{INFO}# TYPE {COUNTER} counter\n{COUNTER}{{gpu="0"}} {joules}\n'
