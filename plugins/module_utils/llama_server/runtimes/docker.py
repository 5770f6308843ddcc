"""Docker: a container a generation, on the network of the host."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from typing import Any

from ...hostlib.instances import Instance
from ..commands import attempt, beginning, run
from ..errors import HostError
from .base import LOG_BYTES, Runtime, Status, have_user, is_root
from .images import LABEL, have_image

# How each container is confined and kept; the rest is the instance's own.
CONTAINER = (
    "--network", "host", "--read-only", "--tmpfs", "/tmp",  # noqa: S108 - the container's own
    "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--stop-timeout", "30",
    "--log-driver", "json-file", "--log-opt", "max-size=50m", "--log-opt", "max-file=3",
    "--health-interval", "10s", "--health-timeout", "5s", "--health-start-period", "1h", "--health-retries", "3",
    "--restart", "no",  # only what was proven starts with the host: settle() says so
)  # fmt: skip

GPU_RUNTIME = "nvidia"  # which role container_engine makes known to the engine


def container_options(config: Instance) -> list[str]:
    """The options that a container is created with, as far as they are the same on each host."""
    address, port = config.local_url.split("//", 1)[1].rpartition(":")[0].strip("[]"), config.port
    # The image needs no client for this: bash opens the connection itself.
    health = (
        f"exec 3<>/dev/tcp/{address}/{port} && printf 'GET /health HTTP/1.0\\r\\n\\r\\n' >&3 "
        "&& read -r status <&3 && [[ $status == *' 200 '* ]]"
    )
    options = [*CONTAINER, "--health-cmd", f'bash -c "{health}"'.replace("$", "\\$")]
    gpus, environment = config.gpus, config.environment
    if config.uses_gpu and config.release.backend == "cuda":
        # Not --gpus: before Docker 29.2 systemd knows nothing of its devices, and takes them away on a daemon-reload.
        options += ["--runtime", GPU_RUNTIME]
        environment = {
            "NVIDIA_DRIVER_CAPABILITIES": "compute,utility", "NVIDIA_VISIBLE_DEVICES": "all", **environment,
            **({"NVIDIA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}),
        }  # fmt: skip
    for variable, value in sorted(environment.items()):
        if not (gpus and variable == "CUDA_VISIBLE_DEVICES"):  # inside, the chosen ones are all that there are
            options += ["--env", f"{variable}={value}"]
    return options


class Docker(Runtime):
    """A container a generation, on the network of the host: it listens where the declaration says and nowhere else."""

    name = "docker"
    LOOK_SECONDS = 60  # a hanging engine must not keep whoever looks

    @staticmethod
    def container(config: Instance) -> str:
        return f"llama-server-{config.name}-{config.id}"

    def owner(self) -> tuple[int, int] | None:
        return have_user(self.settings.user) if is_root() else None

    def prepare(self, config: Instance) -> None:
        name = self.container(config)
        if self._inspect(name):  # its name holds the generation, which decides all of it
            return
        image = have_image(config)
        uid, gid = self.owner() or (os.getuid(), os.getgid())
        created = [
            "docker", "create", "--name", name, "--pull", "never", *(config.container or ()), "--user", f"{uid}:{gid}",
            "--label", f"{LABEL}.instance={config.name}", "--label", f"{LABEL}.generation={config.id}",
            "--label", f"{LABEL}.root={self.settings.root}",
        ]  # fmt: skip
        for path in sorted({config.folder, *(file.path for file in config.model_files())}):
            created += ["--mount", f"type=bind,source={path},target={path},readonly"]
        try:
            run(*created, "--entrypoint", config.argv[0], image, *config.argv[1:])
        except HostError as error:
            if re.search(rf"runtime (name: |specified ){GPU_RUNTIME}\b", str(error), re.IGNORECASE):
                raise HostError(
                    f"the container engine can't hand out GPUs, it knows no runtime {GPU_RUNTIME}: run "
                    "playbooks/provision.yml, which installs nvidia-container-toolkit"
                ) from error
            raise

    def start(self, config: Instance) -> None:
        self.prepare(config)
        run("docker", "start", self.container(config))

    def stop(self, name: str) -> None:
        for container in self._containers(name):
            run("docker", "stop", container)

    def altered(self, config: Instance) -> list[str]:
        return []  # a container can't be altered, but for its restarts

    def settle(self, config: Instance) -> None:
        run("docker", "update", "--restart", "always", self.container(config))
        for container in self._containers(config.name):
            if container != self.container(config):
                run("docker", "rm", "--force", container)

    def unsettle(self, name: str) -> None:
        for container in self._containers(name):
            run("docker", "update", "--restart", "no", container)

    def forget(self, name: str) -> None:
        for container in self._containers(name):
            run("docker", "rm", "--force", container)

    def status(self, name: str) -> Status:
        inspected = [self._inspect(container) for container in self._containers(name)]
        containers = [container for container in inspected if container]
        # The one that runs, else the one that ran last.
        containers.sort(key=lambda container: (container["State"]["Running"], container["State"]["StartedAt"]))
        if not containers:
            return Status("stopped")
        container = containers[-1]
        state, life = container["State"], container["State"]["StartedAt"]
        argv = (container["Path"], *container["Args"])
        if state["Restarting"]:
            return Status("starting", None, life, argv)
        if state["Running"]:
            return Status("running", state["Pid"], life, argv)
        return Status("failed" if state["ExitCode"] not in (0, 137, 143) else "stopped", None, life, argv)

    def log(self, name: str, lines: int | None = None) -> list[str]:
        status, containers = self.status(name), self._containers(name)
        log_lines: list[str] = []
        for container in containers:
            inspected = self._inspect(container)
            if inspected and inspected["State"]["StartedAt"] == status.life:
                asked = ("docker", "logs", "--since", status.life)
                if lines:
                    log_lines = attempt(*asked, "--tail", str(lines), container)[1]
                else:
                    log_lines = beginning((*asked, container), LOG_BYTES)
        return log_lines

    def lives(self, name: str, lives: Sequence[str]) -> list[list[str]]:
        return [self.log(name)]  # what was not proven is not started again

    def where_log(self, name: str) -> str:
        containers = self._containers(name)
        return f"docker logs {containers[-1] if containers else 'llama-server-' + name}"

    def _containers(self, name: str) -> list[str]:
        of_it = (f"label={LABEL}.instance={name}", f"label={LABEL}.root={self.settings.root}")
        filters = [word for label in of_it for word in ("--filter", label)]
        return sorted(
            run("docker", "ps", "--all", *filters, "--format", "{{.Names}}", timeout=self.LOOK_SECONDS).split()
        )

    def _inspect(self, container: str) -> dict[str, Any] | None:
        output = run("docker", "inspect", "--type", "container", container, check=False, timeout=self.LOOK_SECONDS)
        inspected: list[dict[str, Any]] = json.loads(output or "[]")
        return inspected[0] if inspected else None
