"""The driver on RHEL 9 and 10, as far as they can be had: a host that says it is one, with a real dnf and real rpms.

dnf, rpm and the locks are Debian's packages of them; the repository holds small packages, signed, with module streams
for RHEL 9. What is below the kernel's interface is as in tests/fakes/gpu_host.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bed import Bed, Host
from tests.conftest import ROOT, changed
from tests.fakes.apt_repository import AptRepository
from tests.fakes.gpu_host import BUS, KERNEL, KO, NVIDIA_SMI, PERSISTENCED, TMPFS, equip, write, write_bus
from tests.fleet.test_provision import Rig

PLACE = "/opt/rpms"
VERSIONS = ("580.95.05", "580.178.04", "615.71.09")
SPEC = """Name: {name}
Version: {version}
Release: {release}
Epoch: {epoch}
Summary: a stand-in
License: MIT
BuildArch: noarch
AutoReqProv: no
{head}
%description
A stand-in.
{body}
"""
STREAM = """---
document: modulemd
version: 2
data:
  name: nvidia-driver
  stream: "{stream}"
  version: 20260101
  context: aaaaaaaa
  arch: x86_64
  summary: a stream
  description: a stream
  license: {{module: [MIT], content: [MIT]}}
  profiles: {{default: {{rpms: [nvidia-driver-cuda]}}}}
  artifacts:
    rpms: [{rpms}]
"""
DEFAULT = """---
document: modulemd-defaults
version: 1
data: {module: nvidia-driver, stream: "open-dkms", profiles: {"open-dkms": [default]}}
"""
KEYS = {"9": "D42D0685.pub", "10": "CDF6BA43.pub"}
# The packages for both: RHEL 9 has streams of them, and from 10 on there are none.
BUILD = r"""set -e
quietly() { "$@" >/tmp/log 2>&1 || { tail -5 /tmp/log; exit 1; }; }
cd /root/specs
name='_build_name_fmt %%{NAME}-%%{VERSION}-%%{RELEASE}.rpm'
build() { quietly rpmbuild -bb --define "_rpmdir $1" --define "$name" "${@:2}"; }
build $1/rhel10/x86_64 nvidia-*.spec kmod-*.spec
build /opt/base base-*.spec dkms-*.spec python3-*.spec kernel-*.spec
createrepo_c -q /opt/base
gpg --batch --quiet --passphrase '' --quick-generate-key 'stand-in <tests@example.com>' rsa2048 sign
quietly rpmsign --define '_gpg_name stand-in' --define '__gpg /usr/bin/gpg' --addsign $1/rhel10/x86_64/*.rpm
createrepo_c -q $1/rhel10/x86_64
cp -r $1/rhel10 $1/rhel9
modifyrepo_c --mdtype=modules modules.yaml $1/rhel9/x86_64/repodata >/dev/null
gpg --armor --export | tee $1/rhel9/x86_64/$2 >$1/rhel10/x86_64/$3
gpg --with-colons --list-keys | sed -n 's/^fpr:*\([0-9A-F]*\):/\1/p' | head -1
"""
# What a run brought, and what dnf was told.
BARE = r"""rpm -qa '*nvidia*' | xargs -r rpm -e
dnf -q versionlock clear
cd /etc; rm -rf yum.repos.d/llama-nexus* pki/rpm-gpg/*llama-nexus* dnf/modules.d/*
"""


def specs(host: Host) -> None:
    """The sources of the packages, one a spec file."""

    def spec(
        name: str, version: str, release: str = "1.el9", epoch: int = 0, head: str = "", body: str = "%files"
    ) -> None:
        text = SPEC.format(name=name, version=version, release=release, epoch=epoch, head=head, body=body)
        write(host, f"/root/specs/{name}-{version}.spec", text)

    def brings(path: str, text: str) -> str:
        target = f"%{{buildroot}}{path}"
        mode = "755" if text.startswith("#!") else "644"
        return (
            f"%install\ninstall -d $(dirname {target})\ncat >{target} <<'END_OF_FILE'\n{text.replace('%', '%%')}\n"
            f"END_OF_FILE\nchmod {mode} {target}\n%files\n{path}\n"
        )

    for version in VERSIONS:
        smi = NVIDIA_SMI.replace("@VERSION@", version)
        spec("nvidia-driver-cuda", version, epoch=3, body=brings("/usr/bin/nvidia-smi", smi))
        ko = KO.replace("@VERSION@", version).replace("@LICENSE@", "Dual MIT/GPL").replace("@KERNEL@", KERNEL)
        spec("kmod-nvidia-open-dkms", version, epoch=3, body=f"%post\n{ko}%files")
        unit = PERSISTENCED.replace("/usr/bin/nvidia-persistenced", "/usr/bin/sleep infinity #")
        spec("nvidia-persistenced", version, epoch=3,
             body=brings("/usr/lib/systemd/system/nvidia-persistenced.service", unit))  # fmt: skip
    spec("base", "1", head="Provides: /bin/sh")
    spec("dkms", "3.0")
    spec("python3-dnf-plugin-versionlock", "4.3")
    name, version, release = f"kernel-devel-{KERNEL}".rsplit("-", 2)
    spec(name, version, release)


@pytest.fixture(scope="module")
def host(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A host with dnf and the repositories."""
    bus = tmp_path_factory.mktemp("bus")
    write_bus(bus, {"0000:01:00.0": "0x27b8"})
    with bed.host("systemd", "rocky", mounts={bus: BUS, ROOT / "plugins": "/repository/plugins"}, tmpfs=TMPFS) as host:
        host.exec(
            "sh", "-c",
            "apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Options::=--force-unsafe-io "
            "install --no-install-recommends dnf rpm createrepo-c dnf-plugins-core gnupg >/dev/null 2>&1",
        )  # fmt: skip
        equip(host)
        specs(host)
        streams = ""
        for stream, branch in (("580-open", "580."), ("open-dkms", "615.")):
            rpms = ", ".join(
                f'"{name}-3:{version}-1.el9.noarch"' for version in VERSIONS if version.startswith(branch)
                for name in ("nvidia-driver-cuda", "kmod-nvidia-open-dkms", "nvidia-persistenced")
            )  # fmt: skip
            streams += STREAM.format(stream=stream, rpms=rpms)
        write(host, "/root/specs/modules.yaml", streams + DEFAULT)
        write(host, "/etc/dnf/plugins/local.conf", "[main]\nenabled=0\n")
        base = "[base]\nname=what the system and EPEL bring\nbaseurl=file:///opt/base\ngpgcheck=0\n"
        write(host, "/etc/yum.repos.d/base.repo", base)
        yield host


@pytest.fixture(scope="module")
def fingerprint(host: Host) -> str:
    """Of the key that the packages are signed with."""
    return host.exec("bash", "-c", BUILD, "bash", PLACE, *KEYS.values()).stdout.strip()


@pytest.fixture(params=KEYS)
def rig(host: Host, fingerprint: str, request: pytest.FixtureRequest, tmp_path: Path) -> Rig:
    """The host, bare, which says that it is Rocky Linux."""
    major: str = request.param
    repository = AptRepository(tmp_path / "none", label="", key=KEYS[major])
    repository.fingerprint = fingerprint
    made = Rig(host, tmp_path, repository, url=f"file://{PLACE}")
    made.bare()
    host.exec("sh", "-c", BARE)
    write(host, "/etc/dnf/dnf.conf", f"[main]\ngpgcheck=1\nmodule_platform_id=platform:el{major}\n")
    write(host, "/etc/dnf/vars/releasever", major)
    host.exec("rm", "/etc/os-release")
    write(host, "/etc/os-release", f'ID="rocky"\nVERSION_ID="{major}.1"\nPRETTY_NAME="Rocky Linux {major}.1"\n')
    return made


def rpms(host: Host) -> dict[str, str]:
    told = host.exec("sh", "-c", "rpm -qa --qf '%{NAME} %{VERSION}\n' '*nvidia*' 2>/dev/null").stdout
    return dict(line.split() for line in told.splitlines())


def locks(host: Host) -> list[str]:
    told = host.exec("dnf", "-q", "versionlock", "list").stdout
    return sorted(
        line.partition("-3:")[0] + " " + line.partition("-3:")[2] for line in told.splitlines() if "-3:" in line
    )


def test_rhel_gets_the_newest_of_its_branch_locked_and_moves_within_it_only_where_that_is_wanted(rig: Rig) -> None:
    host, newest = rig.host, "580.178.04"
    assert changed(rig.provision("--check")) == 1
    assert rpms(host) == {}

    assert changed(rig.provision()) == 1
    names = ["kmod-nvidia-open-dkms", "nvidia-driver-cuda", "nvidia-persistenced"]
    assert rpms(host) == dict.fromkeys(names, newest)
    assert locks(host) == [f"{name} {newest}-1.el9.*" for name in names]
    assert rig.smi() == f"NVIDIA L4, 8.9, {newest}, 23034"

    host.exec("sh", "-c", "dnf -q versionlock delete '*nvidia*'; dnf -q -y downgrade nvidia-driver-cuda-580.95.05 "
              "kmod-nvidia-open-dkms-580.95.05 && modprobe -r nvidia_uvm && modprobe -r nvidia && modprobe nvidia && "
              "modprobe nvidia-uvm")  # fmt: skip
    assert rig.smi() == "NVIDIA L4, 8.9, 580.95.05, 23034"
    assert changed(rig.provision()) == 0
    assert changed(rig.provision(nvidia_driver_upgrade=True)) == 1
    assert rig.smi() == f"NVIDIA L4, 8.9, {newest}, 23034"
    assert {line.split()[1] for line in locks(host)} == {f"{newest}-1.el9.*"}


# By dnf it would be installed whoever made it.
EPEL = r"""set -e
mkdir -p /opt/epel /root/unsigned
cd /root/specs
name='_build_name_fmt epel-release-latest-9.noarch.rpm'
rpmbuild -bb --define '_rpmdir /opt/epel' --define "$name" base-1.spec >/dev/null 2>&1
cp /opt/epel/*.rpm /root/unsigned
rpmsign --define '_gpg_name stand-in' --define '__gpg /usr/bin/gpg' --addsign /opt/epel/*.rpm >/dev/null
gpg --armor --export stand-in >/opt/epel/RPM-GPG-KEY-EPEL-9
"""
ASK = """import sys
sys.path.insert(0, "/repository")
from plugins.module_utils.nvidia.epel import release_package
from plugins.module_utils.nvidia.errors import DriverError
try:
    with release_package("9", "file:///opt/epel", sys.argv[1]) as path:
        print(path.endswith("epel-release.rpm"))
except DriverError as error:
    print(error)
"""


def test_epel_is_taken_as_it_was_signed_and_from_nobody_else(host: Host, fingerprint: str) -> None:
    host.exec("bash", "-c", EPEL)

    def ask(wanted: str) -> str:
        return host.exec("python3", "-B", "-c", ASK, wanted).stdout.strip()

    assert ask(fingerprint) == "True"
    assert "is not EPEL's key: key " in ask("")
    package = "/opt/epel/epel-release-latest-9.noarch.rpm"
    host.exec("sh", "-c", f"cp {package} /root/signed.rpm; cp /root/unsigned/*.rpm {package}")
    assert f"file://{package} is not signed by EPEL" in ask(fingerprint)
    host.exec("sh", "-c", f"head -c -1 /root/signed.rpm >{package}; printf x >>{package}")
    assert f"file://{package} is not signed by EPEL" in ask(fingerprint)
