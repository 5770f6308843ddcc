"""What is made of what servers and exporters say, and of those that say something else."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from nexus_tasks.servers import scrape
from nexus_tasks.servers.scrape import Machine, Server, Source

COUNTERS = """\
# TYPE llamacpp:prompt_tokens_total counter
llamacpp:prompt_tokens_total 700
# TYPE llamacpp:tokens_predicted_total counter
llamacpp:tokens_predicted_total {predicted}
# TYPE llamacpp:requests_processing gauge
llamacpp:requests_processing 1
# TYPE llamacpp:requests_deferred gauge
llamacpp:requests_deferred 3
"""
Answer = tuple[int, str]


def slot(number: int, task: int, generated: int, *, held: int = 0, busy: bool = True) -> dict[str, Any]:
    return {
        "id": number, "n_ctx": 2048, "is_processing": busy, "id_task": task, "n_prompt_tokens": held,
        "n_prompt_tokens_processed": 7, "next_token": [{"n_decoded": generated}],
    }  # fmt: skip


def families(text: str) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(text)}


class Scripted(http.server.BaseHTTPRequestHandler):
    """Answers by path, and notes what it was asked."""

    answers: ClassVar[dict[str, Answer]]
    asked: ClassVar[list[str]]
    keys: ClassVar[set[str | None]]
    encoding: ClassVar[str] = "identity"

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.keys.add(self.headers["Authorization"])
        status, text = self.answers.get(self.path, (404, ""))
        self.send_response(status)
        self.send_header("Content-Encoding", self.encoding)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the base class
        """Nothing on stderr."""


@pytest.fixture
def served() -> Iterator[tuple[str, type[Scripted]]]:
    """An HTTP server whose answers a test gives; its base URL."""
    handler = type("Handler", (Scripted,), {"answers": {}, "asked": [], "keys": set()})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", handler
        server.shutdown()
        thread.join()


def test_tokens_that_are_being_generated_count_with_those_of_requests_that_ended() -> None:
    slots = [slot(0, 5, 20, held=27), slot(1, 6, 30, held=137), slot(2, 4, 0, held=50, busy=False), {"id": 3}]
    assert scrape.server_of(families(COUNTERS.format(predicted=100)), slots) == Server(
        slots_busy=2, slots=4, waiting=3, prompt_tokens_total=700, predicted_tokens_total=150, cached_tokens=214,
        tasks={(0, 5): (7, 20), (1, 6): (7, 30), (2, 4): (7, 0)},
    )  # fmt: skip


def test_without_counters_there_are_slots_only() -> None:
    server = scrape.server_of({}, [slot(0, 5, 20)])
    assert (server.slots_busy, server.slots) == (1, 1)
    assert (server.waiting, server.prompt_tokens_total, server.predicted_tokens_total) == (None, None, None)


def test_without_slots_there_are_counters_only() -> None:
    server = scrape.server_of(families(COUNTERS.format(predicted=100)), None)
    assert (server.slots_busy, server.slots, server.waiting, server.predicted_tokens_total) == (1, None, 3, 100)


def test_the_count_of_generated_tokens_goes_back_only_when_the_server_was_started_again(
    served: tuple[str, type[Scripted]],
) -> None:
    url, handler = served
    counts = []
    with Source("main", url) as source:
        # A request ends between the two answers: its tokens are in neither for a moment.
        for predicted, generated in ((100, 40), (100, 0), (140, 0), (140, 2), (0, 0), (0, 5)):
            handler.answers["/metrics"] = (200, COUNTERS.format(predicted=predicted))
            handler.answers["/slots"] = (200, json.dumps([slot(0, 5, generated)]))
            server = source.look().server
            assert server
            counts.append(server.predicted_tokens_total)
    assert counts == [140, 140, 140, 142, 0, 5]


def test_what_a_server_does_not_offer_is_asked_once_and_again_when_it_was_away(
    served: tuple[str, type[Scripted]],
) -> None:
    url, handler = served
    handler.answers |= {"/metrics": (501, "{}"), "/slots": (200, json.dumps([slot(0, 5, 1)]))}
    with Source("main", url) as source:
        assert [source.look().problem for _ in range(3)] == [None] * 3
        assert handler.asked == ["/metrics", "/props", "/slots", "/slots", "/slots"]
        handler.answers["/slots"] = (503, "{}")
        assert source.look().problem == "is loading its model"
        handler.answers |= {"/metrics": (200, COUNTERS.format(predicted=1)), "/slots": (200, "[]")}
        look = source.look()
    assert look.server
    assert look.server.prompt_tokens_total == 700


BUSY = COUNTERS.format(predicted=100)
IDLE = BUSY.replace("requests_processing 1", "requests_processing 0").replace(
    "requests_deferred 3", "requests_deferred 0"
)
WAITED_FOR = BUSY.replace("requests_processing 1", "requests_processing 0")  # between two requests
AWAKE, ASLEEP = (json.dumps({"total_slots": 4, "is_sleeping": is_sleeping}) for is_sleeping in (False, True))


@pytest.mark.parametrize(
    ("metrics", "props", "may_sleep", "asks_slots", "busy"),
    [
        (IDLE, AWAKE, False, False, 0),
        (IDLE, ASLEEP, True, False, 0),
        (BUSY, AWAKE, True, True, 1),
        (WAITED_FOR, AWAKE, False, True, 1),
        (None, AWAKE, False, True, 1),
        (None, ASLEEP, False, False, 0),
        (None, ASLEEP, True, False, 0),
        (None, AWAKE, True, False, None),  # nothing but /slots would tell, which keeps it awake
    ],
)
def test_slots_are_asked_for_only_where_that_keeps_nobody_awake(
    served: tuple[str, type[Scripted]], metrics: str | None, props: str, may_sleep: bool, asks_slots: bool,
    busy: int | None,
) -> None:  # fmt: skip
    url, handler = served
    handler.answers |= {"/props": (200, props), "/slots": (200, json.dumps([slot(0, 5, 1)]))}
    if metrics:
        handler.answers["/metrics"] = (200, metrics)
    with Source("main", url, may_sleep=may_sleep) as source:
        looks = [source.look() for _ in range(3)]
    assert [look.problem for look in looks] == [None] * 3
    assert ("/slots" in handler.asked) == asks_slots
    assert [look.server and look.server.slots_busy for look in looks] == [busy] * 3
    assert [look.server and look.server.slots for look in looks] == [1 if busy else None if busy is None else 4] * 3


def test_a_server_that_offers_neither_is_there_and_tells_nothing(served: tuple[str, type[Scripted]]) -> None:
    url, _ = served
    with Source("router", url) as source:
        look = source.look()
        assert (look.problem, look.server) == (None, Server())
        assert source.sample()["server"]["slots"] is None


@pytest.mark.parametrize(
    ("answers", "problem"),
    [
        ({"/metrics": (401, "{}")}, "wants an API key"),
        ({"/metrics": (500, "")}, "answers HTTP 500 at /metrics"),
        ({"/metrics": (200, "<html>hello</html>")}, "what it has at /metrics is not Prometheus' format"),
        ({"/metrics": (200, "other_total 3\n")}, "is neither a llama-server nor an exporter of role telemetry"),
        ({"/slots": (200, "<html>hello</html>")}, "what it has at /slots are not llama-server's"),
        ({"/slots": (200, '{"a": 1}')}, "what it has at /slots are not llama-server's"),
        ({"/slots": (200, '[{"id_task": 1, "next_token": "x"}]')}, "answers something else than this version knows"),
        ({"/metrics": (200, "llama_nexus_gpu_info 1\n")}, "answers something else than this version knows"),
        ({"/metrics": (200, "llamacpp:prompt_tokens +Inf\n")}, "answers something else than this version knows"),
    ],
)
def test_what_is_wrong_with_an_answer_is_said_in_a_few_words(
    served: tuple[str, type[Scripted]], answers: dict[str, Answer], problem: str
) -> None:
    url, handler = served
    handler.answers |= answers
    with Source("main", url) as source:
        assert source.look().problem == problem
        assert source.sample() == scrape.NOTHING


@pytest.mark.parametrize(
    ("metrics", "wants", "problem"),
    [
        (COUNTERS.format(predicted=1), Machine, "is no exporter of role telemetry: something else has its port"),
        (None, Machine, "is no exporter of role telemetry: something else has its port"),
        ("llama_nexus_nvml_up 1\n", Server, "is an exporter of role telemetry and no llama-server"),
        (COUNTERS.format(predicted=1), Server, None),
        ("llama_nexus_nvml_up 1\n", Machine, None),
    ],
)
def test_what_answers_at_the_port_of_another_is_not_taken_for_it(
    served: tuple[str, type[Scripted]], metrics: str | None, wants: type[Machine] | type[Server], problem: str | None
) -> None:
    url, handler = served
    handler.answers |= {"/metrics": (200, metrics)} if metrics else {}
    with Source("rig", url, wants=wants) as source:
        assert source.look().problem == problem


def test_an_answer_that_is_compressed_unasked_is_a_problem_and_no_end(served: tuple[str, type[Scripted]]) -> None:
    url, handler = served
    handler.encoding = "gzip"
    handler.answers["/metrics"] = (200, "this is no gzip")
    with Source("main", url) as source:
        assert source.look().problem == "the answer is in gzip, which nobody asked for"


def test_why_gpus_are_missing_is_told_by_the_exporter() -> None:
    missing = 'llama_nexus_nvml_error_info{error="GPU 1 is away"} 1\n'
    assert scrape.machine_of(families(missing)).nvml_error == "GPU 1 is away"
    assert scrape.machine_of({}).nvml_error is None


def test_one_that_was_closed_meanwhile_tells_nothing(served: tuple[str, type[Scripted]]) -> None:
    source = Source("main", served[0])
    source.close()
    source.close()
    assert source.look().problem == "was closed meanwhile"


def test_the_key_is_in_a_header_and_nowhere_else(served: tuple[str, type[Scripted]]) -> None:
    url, handler = served
    handler.answers["/metrics"] = (403, "{}")
    with Source("main", url, "sesame-0123456789") as source:
        look = source.look()
    assert look.problem == "refuses its key"
    assert handler.keys == {"Bearer sesame-0123456789"}
    assert "sesame" not in f"{look}{vars(source)}"


def machine(busy: float, idle: float) -> Machine:
    return Machine(busy, idle, 0, 0, [], [], None)


@pytest.mark.parametrize(
    ("before", "now", "percent"),
    [
        (None, machine(5, 5), None),
        (machine(5, 5), machine(6, 8), 25.0),
        (machine(5, 5), machine(5, 5), None),  # no time went by
        (machine(0.1 + 0.2, 5), machine(0.3, 6), 0.0),  # sums that differ in the last bit
        (machine(5, 5), machine(6, 4.98), 100.0),  # what waited for a disk is counted anew
        (machine(500, 500), machine(1, 3), None),  # it was started again
    ],
)
def test_the_processor_is_as_busy_as_between_two_looks(
    before: Machine | None, now: Machine, percent: float | None
) -> None:
    assert scrape.cpu_percent(before, now) == percent
