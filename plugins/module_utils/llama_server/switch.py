"""From one verified server to the next, in one process on the host, or back.

    rows = converge(host, ["main"])   # trial → drain → stop → start → prove → keep, or restore and prove the old one
    row = rollback(host, folder, proof)

Each step is written to the instance's state.json as it begins. Whatever ends this process, a start of the instance
follows the verified generation (llama_server_host.py), and another run converges.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import http.client
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

from .client import LOOK_SECONDS, Hidden, Server, Unanswered, free_port
from .compare import Host, Row, reason
from .host import (
    TRIAL,
    Config,
    Declaration,
    Folder,
    HostError,
    folders,
    old_keys,
    read_json,
    salt,
    used_releases,
)  # fmt: skip
from .placement import MIB
from .proof import keep, prove
from .runtimes import RUNTIMES, Runtime, Status, attempt, prune_images, remove_trial

LOCK_SECONDS = 1800  # a switch of a big model on a slow disk
# Checks that fail where there is too little memory; a router's have the model's name before them.
CROWDED = ("layers on the GPU", "weights in host memory", "caches in host memory", "context per slot")
OUT_OF_MEMORY = re.compile(r"out of memory|failed to allocate|unable to allocate|cannot allocate memory", re.IGNORECASE)


def converge(host: Host, names: list[str]) -> list[Row]:
    """Bring these instances to their declarations; stop what is no longer declared where that is wanted.

    Stops at the first that fails: what comes after it is left as it was.
    """
    own = salt(host.root, create=True)
    rows: list[Row] = []
    for folder in folders(host.root):
        if folder.name.endswith(TRIAL):
            with contextlib.suppress(HostError), _locked(host, folder, "removal", wait=0):
                remove_trial(folder, host.settings)
    steps = [(folder.name, functools.partial(remove, host, folder)) for folder in host.undeclared() if host.prune]
    steps += [(name, functools.partial(_converged, host, host.folder(name), own)) for name in names]
    for name, step in steps:
        try:
            rows.append(step())
        except (HostError, OSError) as error:  # before anything was stopped: Switch handles what comes later
            rows.append(_untouched(name, error))
        if rows[-1]["error"]:
            return rows
    if any(declaration.config["runtime"] == "docker" for declaration in host.declared.values()):
        with contextlib.suppress(HostError):  # what is left is tried again by the next run that changes something
            prune_images(used_releases(host.root))
    return rows


def _untouched(name: str, error: Exception) -> Row:
    what = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) else str(error)
    return {"name": name, "state": "failed", "changed": False, "checks": [], "error": what}


def _locked(
    host: Host, folder: Folder, what: str, wait: float = LOCK_SECONDS
) -> contextlib.AbstractContextManager[None]:
    """Hold an instance's lock; whoever follows this run is told for whom it waits."""
    held: contextlib.AbstractContextManager[None] = folder.locked(
        wait, what, lambda line: host.progress(f"{folder.name}: {line}")
    )
    return held


def _converged(host: Host, folder: Folder, own: bytes) -> Row:
    with _locked(host, folder, "deployment"):
        return _switched(host, folder, host.declared[folder.name], own)


def _switched(host: Host, folder: Folder, declaration: Declaration, own: bytes) -> Row:
    identity, verified = declaration.identity(own), folder.linked("verified")
    if verified and not reason(host, folder, verified, declaration, identity, ours=True):
        row = prove(verified, declaration.proof, host.runtime(verified), folder, progress=host.progress)
        del row["answered"]
        if not row["error"]:  # what the plan waited for was done by another run, or only tried
            folder.note("verified", generation=identity)
            return {**row, "changed": False, "state": "verified"}
        if not row["restart"]:
            return {**row, "changed": False, "state": "failed"}
    runtime_class = RUNTIMES[declaration.config["runtime"]]
    owner = runtime_class(host.settings).owner()
    if folder.differs(declaration, identity):
        config = folder.write(declaration, identity, owner)
    else:
        config = declaration.placed(folder.generation(identity), identity)
    same = verified is not None and verified["id"] == identity
    tried = False
    serves = verified is not None and folder.is_steady() and bool(host.pids(folder))
    if serves and not same and (host.trial == "always" or (host.trial == "auto" and _room_for_both(config, folder))):
        tried, refused = True, _tried(host, folder, declaration, own, owner)
        if refused:
            host.progress(f"{folder.name}: proving the old one")
            folder.note("refused", generation=identity, error=refused["error"])
            restored = prove(verified, declaration.proof, host.runtime(verified), folder, speed_counts=False)
            del restored["answered"]
            folder.tidy()
            return {**refused, "name": folder.name, "changed": False, "restored": restored, "trial": True,
                    "state": "restored" if not restored["error"] else "failed"}  # fmt: skip
    host.runtime(config).prepare(config)  # while the old one serves: an image may have to be built
    return {**Switch(host, folder, verified, declaration.proof).to(config), "trial": tried}


def _tried(
    host: Host, folder: Folder, declaration: Declaration, own: bytes, owner: tuple[int, int] | None
) -> Row | None:
    """Prove the new server on a side port while the old one serves; the failed row, or None where nothing speaks
    against the switch: it was proven, or it ran out of memory beside the old one.
    """
    side = host.folder(folder.name + TRIAL)
    trial = declaration.on_side_port(free_port())
    with _locked(host, side, "trial"):
        config = side.write(trial, trial.identity(own), owner)
        runtime = host.runtime(config)
        side.link("pending", config)
        folder.note("trial", generation=declaration.identity(own), port=config["port"])
        try:
            runtime.prepare(config)
            runtime.start(config)
            row = prove(
                config, trial.proof, runtime, side, speed_counts=False,
                progress=lambda line: host.progress(f"{line}, beside the old one"),
            )  # fmt: skip
        except (HostError, OSError) as error:
            row = {"name": side.name, "checks": [], "error": str(error), "answered": None}
        finally:
            runtime.forget(side.name)
            side.remove()
    wrong = [check["check"] for check in row["checks"] if not check["ok"]]
    # Beside the old one there may be no room for what fits alone: out of memory, or moved to the processor by itself.
    offloads = any(found["offloaded"] for found in (row.get("placements") or {}).values())
    crowded = bool(wrong) and offloads and all(check.endswith(CROWDED) for check in wrong)
    starved = crowded or any(OUT_OF_MEMORY.search(line) for line in row.get("log_tail", []))
    del row["answered"]
    return row if row["error"] and not starved else None


def _room_for_both(config: Config, folder: Folder) -> bool:
    """Whether memory has room for a second server, by what is free now.

    It needs what the present one was measured to hold, where that is the same model, and at any rate its weights and a
    third for caches.
    """
    models = ([config["model"]] if config["model"] else list(config["models"].values())) + config["side_models"]
    need = sum(model["size_bytes"] for model in models) / MIB * 1.33 + 1024
    last = read_json(folder.file("proof.json")) or {}
    if last.get("model") == config["model"]:
        need = max(need, sum(sum(sizes.values()) for sizes in (last.get("buffers_mib") or {}).values()))
    with open("/proc/meminfo", encoding="ascii") as stream:
        available = next(int(line.split()[1]) / 1024 for line in stream if line.startswith("MemAvailable"))
    if available < need:
        return False
    if not config["uses_gpu"]:
        return True
    program = shutil.which("nvidia-smi")
    if not program:
        return False
    code, output = attempt(program, "--query-gpu=index,uuid,memory.free", "--format=csv,noheader,nounits", timeout=60)
    free = 0.0
    for index, uuid, mib in [row for row in csv.reader(output, skipinitialspace=True) if len(row) == 3]:
        if not config["gpus"] or {index, uuid} & set(config["gpus"]):
            free += float(mib) if re.match(r"[\d.]+$", mib) else 0.0
    return bool(code == 0 and free >= need)


class Switch:
    """One instance on its way from a generation to another; the lock is held."""

    def __init__(self, host: Host, folder: Folder, old: Config | None, proof: dict[str, Any]) -> None:
        self.host = host
        self.folder = folder
        self.old = old
        self.proof = proof
        self.answered: float | None = None  # when the server that was started last was ready
        self.troubles: list[str] = []  # what went wrong beside the switch itself

    def progress(self, line: str) -> None:
        self.host.progress(f"{self.folder.name}: {line}")

    def to(self, new: Config) -> Row:
        """Switch, prove, and keep the new generation or restore the old one."""
        folder, old = self.folder, self.old
        left = folder.linked("pending")
        if left and old and left["runtime"] == old["runtime"]:
            folder.link("pending", None)  # of an earlier run: a crash of the old server must not start it
        drained = self._drain(old) if old else None
        served, stopped = old is not None and bool(self.host.pids(folder)), time.monotonic()
        self._clear()
        # What needs the disk comes before the old server is stopped: a full one must not cost it.
        folder.note("switching", generation=new["id"], old=old["id"] if old else None)
        folder.link("pending", new)
        row = self._start(new, instead_of=old)
        row |= {"changed": True, "drained": drained, "restored": None}
        row["downtime_seconds"] = round(self.answered - stopped, 2) if served and self.answered else None
        if not row["error"]:
            try:
                self._keep(new)
            except (OSError, HostError) as error:
                row["error"] = f"it was proven, but that can't be written down: {error}"
        row = self._back(new, row, stopped) if row["error"] else self._kept(new, row)
        if row["error"]:
            row["error"] = "; ".join([row["error"], *self.troubles])
        else:
            notes = {"expected": "", "found": "", "ok": True}
            row["checks"] += [{"check": "afterwards", **notes, "cause": trouble} for trouble in self.troubles]
        return row

    def _clear(self) -> None:
        """End what a switch that was cut off left in another runtime than the old one's; that one is stopped anyway."""
        for runtime in self.host.runtimes(self.folder):
            if self.old is None or runtime.name != self.old["runtime"]:
                try:
                    runtime.forget(self.folder.name)
                except HostError:
                    if not self.host.runs_nothing(self.folder, runtime.name):
                        raise

    def _start(self, config: Config, *, instead_of: Config | None = None, speed_counts: bool = True) -> Row:
        """Stop the one that runs, start a generation and prove it."""
        runtime = self.host.runtime(config)
        try:
            if instead_of:
                self.progress("stopping")
                self._stop(instead_of, runtime.name)
            self.progress("starting")
            runtime.start(config)
            row = prove(
                config, self.proof, runtime, self.folder, speed_counts=speed_counts, progress=self.host.progress
            )
        except Exception as error:  # whatever it is, the old one must come back
            what = str(error) if isinstance(error, HostError) else f"{type(error).__name__}: {error}"
            row = {"name": config["name"], "generation": config["id"], "checks": [], "error": what}
        self.answered = row.pop("answered", None)
        return row

    def _stop(self, config: Config, successor: str) -> None:
        """Stop what runs. A runtime that is left for another one may be gone from the host."""
        try:
            self.host.runtime(config).stop(self.folder.name)
        except HostError as error:
            if config["runtime"] == successor or not self.host.runs_nothing(self.folder, config["runtime"]):
                raise
            self.troubles.append(f"the old one can't be stopped, and does not run: {error}")

    def _keep(self, new: Config) -> None:
        """Make the new generation what every start follows."""
        folder, old = self.folder, self.old
        # Whatever ends this process, a reboot starts the old one or the new one, or both for one port: then one serves.
        self.host.runtime(new).settle(new)
        if old and old["id"] != new["id"]:
            folder.link("previous", old)  # before: the old one is not forgotten
        folder.link("verified", new)

    def _kept(self, new: Config, row: Row) -> Row:
        """Tidy up after a switch that is done: what fails now is told, and changes nothing of that."""
        folder, old = self.folder, self.old
        with self._despite("the old one can't be removed"):
            if old and old["runtime"] != new["runtime"]:
                self.host.runtime(old).forget(folder.name)
        with self._despite("this can't be written down"):
            folder.link("pending", None)
            keep(row, folder)
            folder.note("verified", generation=new["id"])
            folder.tidy()
        return {**row, "state": "verified"}

    def _back(self, failed: Config, row: Row, stopped: float) -> Row:
        """Restore the old generation and prove it; without one, stop. Goes on whatever fails on the way."""
        folder, old = self.folder, self.old
        self.progress("restoring the old one" if old else "stopping what can't be proven")
        self._note("restoring", error=row["error"])
        if old is None:
            with self._despite("it can't be stopped"):
                self.host.runtime(failed).forget(folder.name)
                folder.link("verified", None)
                folder.link("pending", None)  # else the next run knows by it what to end
            self._note("failed", error=row["error"], runtime=failed["runtime"])
            folder.tidy()  # its keys are of no use here
            return {**row, "state": "failed"}
        with self._despite("a link can't be changed"):
            folder.link("pending", None)
            folder.link("verified", old)
        if old["id"] == failed["id"]:  # a restart that failed: there is nothing else that was proven
            with self._despite("it does not start with the host"):
                self.host.runtime(old).settle(old)
            if [check["check"] for check in row["checks"] if not check["ok"]] == ["decode speed"]:
                # Slow is better than nothing, and a restart does not make it faster.
                self._note("verified", error=row["error"])
                return {**row, "state": "failed", "changed": False}
            self._note("failed", error=row["error"])
            return {**row, "state": "failed"}
        # What can't be stopped must not keep the old one from being tried; its own proof says what is wrong then.
        with self._despite("the new one can't be stopped"):
            self.host.runtime(failed).stop(folder.name)
            if old["runtime"] != failed["runtime"]:
                self.host.runtime(failed).forget(folder.name)
        restored = self._start(old, speed_counts=False)  # slow is better than nothing; the row says how slow
        row["downtime_seconds"] = round(self.answered - stopped, 2) if self.answered else None
        with self._despite("the old one may not start with the host"):
            self.host.runtime(old).settle(old)
        if restored["error"]:
            self._note("failed", error=row["error"], restored=restored["error"])
            return {**row, "state": "failed", "restored": restored}
        self._note("restored", generation=old["id"], error=row["error"])
        if not self.troubles:  # else something may still go by the other one's folder
            folder.tidy()
        return {**row, "state": "restored", "restored": restored}

    @contextlib.contextmanager
    def _despite(self, what: str) -> Iterator[None]:
        """Go on when this fails, and remember what did."""
        try:
            yield
        except (HostError, OSError) as error:
            self.troubles.append(f"{what}: {error}")

    def _note(self, phase: str, **found: Any) -> None:
        """Write the step down where the disk allows it; the links are what counts."""
        with contextlib.suppress(OSError):
            self.folder.note(phase, **found)

    def _drain(self, config: Config) -> bool | None:
        """Wait until no slot works on a request; None where the server can't say.

        llama-server neither refuses new requests nor ends its streams when it is told to stop, so waiting is all
        that can be done from here; a gateway in front would send new ones elsewhere meanwhile.
        """
        key = next(iter(old_keys(config).values()), None)
        limit = float(self.proof.get("drain_timeout", 0))
        started = time.monotonic()
        self._note("draining")
        try:
            server = Server(config, self.host.runtime(config).status(self.folder.name).pid)
        except HostError:  # it says so itself where it is to be stopped
            return None
        busy = "its"
        while True:
            try:
                code, slots = server.ask("/slots", key=key, timeout=LOOK_SECONDS)
                if code != 200 or not isinstance(slots, list):
                    return None
                working = sum(bool(slot.get("is_processing")) for slot in slots)
                if not working:
                    return True
                busy = str(working)
            except Unanswered:  # what it works on leaves it no time to say so
                pass
            except Hidden as error:
                self.troubles.append(f"requests were not waited for: {error}")
                return None
            except (HostError, OSError, http.client.HTTPException):
                return None
            waited = time.monotonic() - started
            if waited > limit:
                return False
            self.progress(f"waiting for {busy} requests, {waited:.0f} of {limit:.0f} s")
            time.sleep(0.2)


def remove(host: Host, folder: Folder) -> Row:
    """Stop an instance and remove what the host remembers of it."""
    with _locked(host, folder, "removal"):
        config = folder.linked("verified") or folder.linked("pending")
        if config:
            Switch(host, folder, config, {"drain_timeout": host.drain_timeout})._drain(config)
        _everywhere(host, folder, lambda runtime: runtime.forget(folder.name))
        folder.remove()
    return {"name": folder.name, "state": "stopped", "changed": True, "checks": [], "error": None, "removed": True}


def _everywhere(host: Host, folder: Folder, do: Callable[[Runtime], None], *, must: str | None = None) -> None:
    """Do something with all runtimes that may run an instance, but for those that fail and run nothing.

    ``must``: the runtime in which it must succeed all the same.
    """
    for runtime in host.runtimes(folder):
        try:
            do(runtime)
        except HostError:
            if runtime.name == must or not host.runs_nothing(folder, runtime.name):
                raise


# ---- control


def rollback(host: Host, folder: Folder, proof: dict[str, Any]) -> Row:
    """Switch to the generation that was proven before the present one. Raises HostError where there is none."""
    with _locked(host, folder, "rollback"):
        previous = folder.linked("previous")
        verified = folder.linked("verified")
        if previous and verified and previous["id"] == verified["id"]:  # a rollback was killed between two links
            previous = folder.linked("pending")
            folder.link("previous", previous)
        if previous is None or (verified and verified["id"] == previous["id"]):
            raise HostError(f"instance {folder.name} has no earlier generation to go back to")
        if not os.path.exists(previous["argv"][0]) and previous["runtime"] != "docker":
            raise HostError(
                f"instance {folder.name}: release {previous['release']['name']} is gone from the host: deploy it"
            )
        folder.have_launcher(previous, host.launcher)
        host.runtime(previous).prepare(previous)
        return Switch(host, folder, verified, proof).to(previous)


def restart(host: Host, folder: Folder, proof: dict[str, Any]) -> Row:
    """Start the verified generation anew and prove it; a server that runs is drained first."""
    with _locked(host, folder, "restart"):
        verified = _verified(folder)
        host.runtime(verified).prepare(verified)
        return Switch(host, folder, verified, proof).to(verified)


def start(host: Host, folder: Folder, proof: dict[str, Any]) -> Row:
    """Have the verified generation running and proven; one that runs and is proven is left alone."""
    with _locked(host, folder, "start"):
        verified = _verified(folder)
        if folder.is_steady() and host.runtime(verified).status(folder.name).state == "running":
            row = prove(verified, proof, host.runtime(verified), folder)
            del row["answered"]
            return {**row, "changed": False, "state": "failed" if row["error"] else "verified"}
        host.runtime(verified).prepare(verified)
        return Switch(host, folder, verified, proof).to(verified)


def stop(host: Host, folder: Folder, proof: dict[str, Any], *, check_mode: bool = False) -> Row:
    """Have the instance stopped, after a reboot too, until it is started or deployed again."""
    with contextlib.nullcontext() if check_mode else _locked(host, folder, "stop"):
        config = folder.linked("verified") or folder.linked("pending")
        row: Row = {"name": folder.name, "state": "stopped", "changed": False, "checks": [], "error": None}
        if config is None:
            return row
        row |= {"url": config["local_url"], "runtime": config["runtime"], "model": config["model"]}
        row["changed"] = bool(host.pids(folder)) or folder.state()["phase"] != "stopped"
        if row["changed"] and not check_mode:
            row["drained"] = Switch(host, folder, config, proof)._drain(config)
            # A container that can't be reached now would come back with its engine.
            stop_it = functools.partial(_stop_for_good, name=folder.name)
            _everywhere(host, folder, stop_it, must=config["runtime"])
            folder.note("stopped", generation=config["id"])
    return row


def _stop_for_good(runtime: Runtime, name: str) -> None:
    runtime.stop(name)
    runtime.unsettle(name)


def _verified(folder: Folder) -> Config:
    config = folder.linked("verified")
    if config is None:
        raise HostError(f"instance {folder.name} has nothing that was proven: deploy it")
    return config


def flags_of(config: Config) -> list[str]:
    """The flags that a server was started with; those of a router's models, whose file has them as keys, too."""
    found = {word for word in config["argv"] if re.match("--?[A-Za-z]", word)}
    if config["models"]:
        with (
            contextlib.suppress(OSError),
            open(os.path.join(config["folder"], "models.ini"), encoding="utf-8") as stream,
        ):
            found |= {f"--{key}" for key in re.findall(r"^([\w-]+) = ", stream.read(), re.MULTILINE)}
    return sorted(found)


def status(host: Host, folder: Folder) -> Row:
    """What an instance is and does now; nothing is measured."""
    config = folder.linked("verified") or folder.linked("pending")
    note = folder.state()
    row: Row = {"name": folder.name, "state": "stopped", "phase": note["phase"], "since": note.get("at"),
                "changed": False, "checks": [], "error": None,
                "switching": folder.is_locked(), "last_error": note.get("error")}  # fmt: skip
    if config is None:
        return row
    told = ("argv", "host", "port", "local_url", "model", "models", "side_models", "release")
    row["config"] = {key: config[key] for key in told}
    row["flags"] = flags_of(config)
    try:
        seen, log = host.runtime(config).status(folder.name), host.runtime(config).where_log(folder.name)
    except HostError as error:  # the others are shown all the same
        seen, log, row["why"] = Status("unknown"), None, str(error)
    last = read_json(folder.file("proof.json")) or {}
    row |= {
        "url": config["local_url"], "runtime": config["runtime"], "model": config["model"], "pid": seen.pid,
        "release": config["release"]["name"], "generation": config["id"], "state": seen.state,
        "log": log, "tokens_per_second": last.get("tokens_per_second"),
        "buffers_mib": last.get("buffers_mib", {}), "offloaded": last.get("offloaded"), "n_ctx": last.get("n_ctx"),
        "slots": last.get("slots"), "busy": None, "health": None,
        "previous": (folder.linked("previous") or {}).get("id"),
    }  # fmt: skip
    if seen.state == "running":
        server = Server(config, seen.pid)
        try:
            row["health"] = server.ask("/health", timeout=LOOK_SECONDS)[0]
            key = next(iter(old_keys(config).values()), None)
            code, slots = server.ask("/slots", key=key, timeout=LOOK_SECONDS)
            if code == 200 and isinstance(slots, list):
                row["busy"] = sum(bool(slot.get("is_processing")) for slot in slots)
        except HostError as error:  # another one answers, or nobody can tell who does
            row["unasked"] = str(error)
        except (OSError, http.client.HTTPException):
            pass
    return row
