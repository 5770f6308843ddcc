"""Hosts to deploy to: containers that Ansible reaches over ssh, some with systemd as PID 1.

Use, in any test (``bed`` is a fixture of the session; it skips without root or a Docker engine, and fails in CI)::

    def test_a_deployment_survives_a_reboot(bed: Bed, release: Path, tmp_path: Path) -> None:
        with bed.host("systemd", "main", mounts={release: "/opt/release"}, tmpfs={"/srv/models": "64m"}) as host:
            hosts = tmp_path / "hosts.json"
            hosts.write_text(json.dumps(host.inventory(llama_nexus_prefix="/opt/llama-nexus")))
            ansible("deploy.yml", "-i", hosts)
            host.put(tmp_path / "model.gguf", "/srv/models/model.gguf")
            host.reboot()  # /run is empty again; the address stays
            assert host.exec("systemctl", "is-active", "llama-server-main").stdout == "active\\n"
            assert httpx.get(f"http://{host.address}:8600/health").status_code == 200

Kinds of hosts:

============  ====================================================================================
``systemd``   Debian with systemd as PID 1, sshd, sudo, Python
``plain``     the same without systemd: sshd is PID 1, as in a rented pod
``engine``    ``systemd`` with a Docker engine of its own; ``host.load_image(tag)`` brings an image to it
============  ====================================================================================

``bed.image("base")`` is the tag of a bare image with what a release of llama.cpp needs, for containers on ``engine``.

- ``bed.host(kind, name, mounts=, tmpfs=, user=, sudo=)`` returns when the host has booted and answers ssh. ``mounts``
  maps folders of this machine to read-only places on the host (not below /root: services with a user of their own can't
  look there), ``tmpfs`` maps places to sizes, ``user`` makes an unprivileged user who logs in instead of root, with
  ``sudo=True`` one who may become root without a password. A host is removed when its block is left, or when the
  session ends.
- ``bed.hosts(kind, names, ...)`` boots several at once.
- ``host.inventory(**variables)`` and ``inventory(*hosts, groups=...)`` are inventories, to be written as JSON, which
  Ansible reads as YAML.
- ``host.exec(*argv)`` runs a program as root, without ssh; ``host.ssh(*argv)`` as the user who logs in.
- ``host.put(source, path)`` copies a file or a folder to the host.
- ``host.reboot()`` shuts the host down and boots it; ``host.reboot(power_loss=True)`` doesn't shut down.
- Hosts reach each other by name, and the session reaches every port of theirs at ``host.address``.

In units, ``LimitMEMLOCK``, a ``LimitNOFILE`` above the engine's own and a negative ``OOMScoreAdjust`` have no effect.
A host has device nodes only where a test makes them: ``mknod /dev/nvidia0 c 195 0`` for a GPU that answers ENXIO.
"""

from tests.bed.hosts import Bed, Host, inventory

__all__ = ["Bed", "Host", "inventory"]
