"""Folder of an instance on its host: generations, the links for start and rollback, state and lock.

    <root>/<name>/generations/<id>/  instance.json, keys, chat_template.jinja, models.ini, launch.py; written once
    <root>/<name>/verified           link to the generation that was proven last; every start follows it
    <root>/<name>/previous           link to the one proven before it
    <root>/<name>/pending            link to the one that a running switch tries
    <root>/<name>/started            link to the one that supervisor was told to start last, whose launcher it runs
    <root>/<name>/state.json         what happened last
    <root>/<name>/proof.json         the last good proof
    <root>/<name>/switch.lock        locked while a run changes the instance; for its user alone

A switch has the FIFO `tried`, in the folder of the generation that it tries, open for reading. ``pending`` counts only
as long as somebody does (files/launch.py): whatever ends a switch, a reboot too, the next start is the verified one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import Any

from ..hostlib import locks
from ..hostlib.files import put_in_place, read_json, remove_tree, write_file
from ..hostlib.instances import Instance, ProofRecord, RoutedModel, State
from ..hostlib.stored import to_json
from .desired_state import Declaration
from .errors import HostError

STARTED = "started"
LINKS = ("verified", "previous", "pending", STARTED)
LOCK = "switch.lock"
# Of former versions. Their launchers open it as the servers' user, so it has to be open to all: strangers hold it, too.
# They follow `verified` where it is missing.
FORMER_LOCK = "lock"
STEADY = ("verified", "restored", "refused", "trial")  # phases in which what serves is what was verified


class Folder:
    """The folder of one instance."""

    def __init__(self, root: str, name: str) -> None:
        self.root = root
        self.name = name
        self.path = os.path.join(root, name)
        self._is_mine = False  # whether this process holds the lock
        self._tried: tuple[int, str] | None = None  # the FIFO of the generation that it tries

    def file(self, name: str) -> str:
        return os.path.join(self.path, name)

    def generation(self, identity: str) -> str:
        return os.path.join(self.path, "generations", identity)

    def linked(self, link: str) -> Instance | None:
        """The configuration that a link names."""
        try:
            target = os.readlink(self.file(link))
        except OSError:
            return None
        stored = read_json(os.path.join(self.path, target, "instance.json"))
        return Instance.from_json(stored) if stored else None

    def link(self, link: str, config: Instance | None) -> None:
        """Point a link at a generation at once, or remove it; one that is right is left alone.

        Who sets ``pending`` under the lock makes it count, until he removes it or ends.
        """
        path = self.file(link)
        if link == "pending":
            self._try(config)
        if config is not None and os.path.islink(path) and os.path.basename(os.readlink(path)) == config.id:
            return
        if config is None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            return
        draft = path + ".new"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)
        os.symlink(os.path.join("generations", config.id), draft)
        os.replace(draft, path)

    def _try(self, config: Instance | None) -> None:
        """Show the launcher that this process tries a generation, and no other one; None: none."""
        if self._tried:
            descriptor, path = self._tried
            os.close(descriptor)
            self._tried = None
            with contextlib.suppress(OSError):  # what counts is whether somebody reads it
                os.unlink(path)
        if config is None or not self._is_mine:
            return
        path = os.path.join(self.generation(config.id), "tried")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        os.mkfifo(path, 0o600)
        self._tried = os.open(path, os.O_RDONLY | os.O_NONBLOCK), path
        os.chmod(path, 0o622)  # noqa: S103 - to open it for writing is to ask; who could read could answer

    def have_launcher(self, config: Instance, launcher: str) -> None:
        """Have this version's launcher in a generation that another one wrote: that looks for another sign of a switch,
        and would start what is verified.
        """
        path = os.path.join(self.generation(config.id), "launch.py")
        with contextlib.suppress(FileNotFoundError):  # a container has none
            with open(path, encoding="utf-8") as stream:
                same = stream.read() == launcher
            if not same:
                write_file(path, launcher)

    def differs(self, declaration: Declaration, identity: str) -> list[str]:
        """The files of a generation that are not as declared: all of them where it does not exist."""
        folder = self.generation(identity)
        wanted = {**declaration.files, "instance.json": to_json(declaration.placed(folder, identity).as_json())}
        wrong = []
        for name, text in sorted(wanted.items()):
            try:
                with open(os.path.join(folder, name), encoding="utf-8", newline="") as stream:
                    open_to_others = name == "keys" and os.fstat(stream.fileno()).st_mode & 0o077
                    same = stream.read() == text and not open_to_others
            except (OSError, ValueError):
                same = False
            if not same:
                wrong.append(name)
        return wrong

    def write(self, declaration: Declaration, identity: str, owner: tuple[int, int] | None) -> Instance:
        """Have a generation on the disk, complete; the files are for the owner to read, keys for nobody else."""
        folder = self.generation(identity)
        config = declaration.placed(folder, identity)
        os.makedirs(os.path.dirname(folder), mode=0o755, exist_ok=True)
        draft = tempfile.mkdtemp(dir=os.path.dirname(folder), prefix=".")
        try:
            os.chmod(draft, 0o755)  # noqa: S103 - the servers' user reads it; keys are closed by themselves
            for name, text in declaration.files.items():
                secret = name == "keys"
                write_file(os.path.join(draft, name), text, 0o600 if secret else 0o644, owner if secret else None)
            write_file(os.path.join(draft, "instance.json"), to_json(config.as_json()))
            put_in_place(draft, folder)  # one that was altered by hand may be what every start follows
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        return config

    def tidy(self) -> None:
        """Remove the generations that no link names."""
        kept = {config.id for config in map(self.linked, LINKS) if config}
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self.file("generations")):
                if name not in kept:
                    shutil.rmtree(self.generation(name), ignore_errors=True)

    def remove(self) -> None:
        """Remove all of it; the lock is held, and goes last. Without it another run could begin anew in this folder,
        and lose what it writes there.
        """
        with contextlib.suppress(FileNotFoundError):
            # As long as there are generations, the next run finds what is left of a removal that was cut off.
            for name in sorted(os.listdir(self.path), key=lambda name: (name == "generations", name)):
                if name != LOCK:
                    remove_tree(self.file(name))
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.file(LOCK))
            with contextlib.suppress(OSError):  # a run that waited has made it anew
                os.rmdir(self.path)

    @contextlib.contextmanager
    def locked(
        self, wait: float, what: str = "switch", waiting: Callable[[str], None] = lambda line: None
    ) -> Iterator[None]:
        """Hold the lock: no other run changes this instance, and the ``pending`` that is set counts.

        ``waiting`` is told for whom. Raises HostError when another run holds it for longer than ``wait`` seconds.
        """
        with contextlib.ExitStack() as stack:
            lock = locks.held(
                self.file(LOCK), f"{what} of {self.name}", wait=wait, waiting=waiting, formerly=self.file(FORMER_LOCK)
            )
            try:
                stack.enter_context(lock)
            except locks.LockHeld as error:
                raise HostError(
                    f"another run has been switching instance {self.name} for {wait:.0f} s, {error.holder}: wait for "
                    "it to end"
                ) from error
            except locks.LockError as error:
                raise HostError(str(error)) from error
            self._is_mine = True
            try:
                yield
            finally:
                self._is_mine = False
                self._try(None)

    def is_locked(self) -> bool:
        """True while a run is changing the instance."""
        return locks.holder(self.file(LOCK)) is not None

    def note(self, phase: str, **facts: Any) -> None:
        """Write down what is happening; the last note is what remains when the process ends."""
        state = State.from_json({"phase": phase, "at": now(), **facts})
        write_file(self.file("state.json"), to_json(state.as_json()))

    def state(self) -> State:
        return State.from_json(read_json(self.file("state.json")) or {})

    def last_proof(self) -> ProofRecord:
        """The last good proof; an empty one where there is none."""
        return ProofRecord.from_json(read_json(self.file("proof.json")) or {})

    def keep_proof(self, record: ProofRecord) -> None:
        write_file(self.file("proof.json"), to_json(record.as_json()))

    def is_steady(self) -> bool:
        """True where the last switch came to an end, so that what runs is what was verified."""
        return not os.path.lexists(self.file("pending")) and self.state().phase in STEADY


def folders(root: str) -> list[Folder]:
    """The instances that this host has, trials included."""
    try:
        names = sorted(os.listdir(root))
    except FileNotFoundError:
        return []
    return [Folder(root, name) for name in names if os.path.isdir(os.path.join(root, name, "generations"))]


def used_releases(root: str) -> list[str]:
    """The folders of the releases that an instance of this host may start or go back to."""
    configs = [folder.linked(link) for folder in folders(root) for link in LINKS]
    return sorted({config.release.path for config in configs if config})


def used_model_files(root: str) -> list[dict[str, str]]:
    """The files of models that an instance of this host may start or go back to: each ``path`` and its ``user``."""
    users: dict[tuple[str, str], None] = {}
    for folder in folders(root):
        for config in filter(None, map(folder.linked, LINKS)):
            for model in config.model_files():
                further = model.side_models if isinstance(model, RoutedModel) else ()
                users.update(dict.fromkeys((file.path, folder.name) for file in (model, *further)))
    return [{"path": path, "user": user} for path, user in users]


def now() -> str:
    """The present moment in UTC, ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
