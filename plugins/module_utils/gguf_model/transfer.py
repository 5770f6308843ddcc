"""Transfer of all files of a model: looked up first, then fetched side by side. Python 3.9's standard library only.

    fetch([(origin, "m-00001-of-00002.gguf.partial"), …], progress)

What a former run has of a file is taken up; of a file that is whole nothing is asked.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from .download import Download, Origin, size_of
from .errors import check_space
from .progress import Progress, StoppedError, Together

CONNECTIONS = 4  # at the same time; more are a burden to others on the uplink rather than a gain

Files = Sequence["tuple[Origin, str]"]
"""Where each file comes from, and the partial file that it is put into."""


def fetch(files: Files, progress: Progress) -> None:
    """Have all files in their partial ones, whole and with the sha256 that each must have.

    Raises ModelError, of the first that fails, when the others have stopped, and OSError for the disk.
    """
    if len(files) > 1:  # of one alone its own answer says the same, before a byte of it is taken
        files = [(_with_size(origin), partial) for origin, partial in files]
    _check_space(files)
    together = Together(progress, len(files))
    failures: list[BaseException] = []

    def run(number: int) -> None:
        origin, partial = files[number]
        try:
            if not together.stopped.is_set():
                Download(origin, partial, together.of(number, origin.size_bytes)).run()
        except StoppedError:
            pass
        except BaseException as error:
            failures.append(error)
            together.stopped.set()

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(run, range(len(files))))
    if failures:
        raise failures[0]


def _with_size(origin: Origin) -> Origin:
    return origin if origin.size_bytes else replace(origin, size_bytes=size_of(origin))


def _check_space(files: Files) -> None:
    """Raise ModelError where there is no room for what is still to come of all of them."""
    needed = sum(max(0, origin.size_bytes - _have(partial)) for origin, partial in files if origin.size_bytes)
    if needed:
        check_space(os.path.dirname(files[0][1]), needed)


def _have(partial: str) -> int:
    return os.path.getsize(partial) if os.path.exists(partial) else 0
