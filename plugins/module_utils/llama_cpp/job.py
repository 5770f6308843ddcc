"""The job of a build: where it works, and how its steps are run and told of. Python 3.9's standard library only."""

from __future__ import annotations

import os
import re
from collections import deque

from ..hostlib.files import write_line
from ..hostlib.programs import NotStarted, stream, with_environment
from .errors import ReleaseError
from .space import free_mib, no_space


class Job:
    """One build's folders, its log, and the line that says how far it is.

    Args:
        lock: the descriptor of the lock that the build holds.
        progress: a file for the line; None: nobody follows.
    """

    def __init__(self, prefix: str, name: str, *, lock: int, progress: str | None = None) -> None:
        self.prefix, self.name, self.lock, self.progress = prefix, name, lock, progress
        self.work = os.path.join(prefix, "build", name)
        self.source = os.path.join(self.work, "source")
        self.objects = objects_of(prefix, name)
        self.final = os.path.join(prefix, "releases", name)
        self.log = os.path.join(prefix, "logs", f"build-{name}.log")

    def make_folders(self) -> None:
        """Have the folders that a build writes to."""
        for folder in (self.work, os.path.dirname(self.log), os.path.dirname(self.final)):
            os.makedirs(folder, exist_ok=True)

    def say(self, line: str) -> None:
        """Show a line to whoever follows."""
        if self.progress:
            write_line(self.progress, line)

    def run(self, argv: list[str], env: dict[str, str] | None = None, step: str = "") -> None:
        """Run a step into the log; the compiler's own count goes to the progress line. Raises ReleaseError."""
        tail: deque[str] = deque(maxlen=200)
        with open(self.log, "ab", buffering=0) as log:
            log.write(("\n$ " + " ".join(argv) + "\n").encode())

            def take(raw: bytes) -> None:
                log.write(raw)
                line = raw.decode(errors="replace").rstrip()
                tail.append(line)
                count = re.match(r"\[(\d+)/(\d+)\]", line)
                if count:
                    done, total = int(count.group(1)), int(count.group(2))
                    self.say(f"{step} {done} of {total} ({100 * done // total} %)")

            # The messages are searched, so they must be English. Ninja's compilers outlive a killed build: they inherit
            # the lock, so that the next build doesn't write the same objects at the same time.
            environment = with_environment(**{"LC_ALL": "C.UTF-8", **(env or {})})
            try:
                status = stream(argv, take, env=environment, pass_fds=[self.lock])
            except NotStarted as error:
                raise ReleaseError(f"{step} failed: {error}") from error
        if status != 0:
            raise ReleaseError(self._explain(step, argv, list(tail)))

    def logged(self, marker: str) -> list[str]:
        """The words that follow a marker in the log."""
        with open(self.log, encoding="utf-8", errors="replace") as stream:
            return re.findall(re.escape(marker) + r"([\w.-]+)", stream.read())

    def _explain(self, step: str, argv: list[str], tail: list[str]) -> str:
        # A tool that ignores a failed write stumbles over the file later.
        if any("No space left on device" in line for line in tail) or free_mib(self.prefix) == 0:
            return no_space(self.prefix)
        # CMake's own message stands below its headline. Sources without history make git complain, which harms nothing.
        tail = [line for line in tail if "not a git repository" not in line]
        headlines = [number for number, line in enumerate(tail) if line.startswith("CMake Error")]
        telling = re.compile(r"\b(error|fatal)\b(?! is not recoverable)|undefined reference", re.IGNORECASE)
        if headlines:
            wrong = [line.strip() for line in tail[headlines[0] :] if line.strip()]
        else:
            wrong = [line for line in tail if telling.search(line)] or tail[-3:]
        return f"{step} failed ({os.path.basename(argv[0])}): {' / '.join(wrong[:3])} (the log is {self.log})"


def objects_of(prefix: str, name: str) -> str:
    """The folder of a build's objects."""
    return os.path.join(prefix, "build", name, "objects")
