"""Guard of a host that is measured: leaves it as it was, even when the process that measures is killed.

A second process, ``python -m nexus_tasks.measurement.llama_bench.guard``, waits for the end of the first. Unless that
has put the host back, it does: the tool is ended, and a server that was stopped for it is started and proven.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import IO, cast

import psutil
from rich.console import Console
from rich.markup import escape

from nexus_tasks.core.errors import NexusError, command_line
from nexus_tasks.measurement.llama_bench import playbooks
from nexus_tasks.measurement.llama_bench.playbooks import Place


@contextlib.contextmanager
def left_as_it_was(place: Place, console: Console) -> Iterator[None]:
    """Put the host back when the block is left, and also when this process is killed in it.

    Raises:
        DeployError: the server that was stopped does not come back.
        KeyboardInterrupt: it was interrupted again; the second process goes on.
    """
    argv = [sys.executable, "-m", "nexus_tasks.measurement.llama_bench.guard"]
    quiet = subprocess.DEVNULL
    # A session of its own: what ends a terminal's processes does not end this one.
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, text=True, start_new_session=True
    ) as second:
        pipe = cast(IO[str], second.stdin)
        pipe.write(json.dumps(dataclasses.asdict(place)) + "\n")
        pipe.flush()
        try:
            failure: NexusError | None = None
            try:
                yield
            except NexusError as error:
                failure = error
            if place.starts:
                playbooks.move("start", place, console)
            pipe.write("done\n")
            if failure:
                raise failure
        except KeyboardInterrupt:
            console.print("interrupted; leaving the host as it was, which goes on by itself after another Ctrl-C")
            pipe.close()
            if second.wait() != 0:
                target = f"{place.host}/{place.instance}"
                warn(console, f"{target} may not be as it was: nox -s status, then nox -s start -- {target}")
            raise


def warn(console: Console, text: str) -> None:
    """Tell people of something that may be amiss."""
    console.print(f"[yellow]warning[/] {escape(text)}", soft_wrap=True, highlight=False)


def _end_playbooks(place: Place) -> None:
    """End what Ansible does for a run whose own process was killed: without its terminal it would wait for ever."""
    for process in psutil.process_iter(["cmdline"]):
        if any(place.run in word for word in process.info["cmdline"] or ()):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


@command_line
def main(argv: Sequence[str] | None = None) -> int:
    """The second process: wait for the end of the first, and put the host back unless that was done."""
    place = Place(**json.loads(sys.stdin.readline()))
    if sys.stdin.read() == "done\n":
        return 0
    _end_playbooks(place)
    try:
        playbooks.end(place, None)
    finally:
        if place.starts:
            playbooks.move("start", place, None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
