"""An apt repository of small real packages, signed with a key of its own.

repository = AptRepository(folder, label="NVIDIA CUDA", key="3bf863cc.pub")
repository.add("nvidia-driver-cuda", "580.95.05-1", {"/usr/bin/nvidia-smi": "#!/bin/sh\\n..."}, depends="libc6")
repository.publish()
repository.fingerprint
"""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path


class AptRepository:
    """A flat repository in a folder, as in ``deb file:///folder ./``."""

    def __init__(self, folder: Path, *, label: str, key: str) -> None:
        self.folder = folder
        self.label = label
        self.key = key
        self.fingerprint = ""
        folder.mkdir(parents=True, exist_ok=True)

    def add(
        self, name: str, version: str, files: Mapping[str, str] | None = None, *, depends: str = "", postinst: str = ""
    ) -> None:
        """Build a package. What begins with ``#!`` can be executed."""
        with tempfile.TemporaryDirectory() as place:
            root = Path(place)
            (root / "DEBIAN").mkdir()
            root.chmod(0o755)
            control = f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: tests <tests@example.com>\n"
            control += f"Depends: {depends}\n" if depends else ""
            (root / "DEBIAN" / "control").write_text(f"{control}Description: a stand-in\n")
            for path, text in {**(files or {}), **({"/DEBIAN/postinst": postinst} if postinst else {})}.items():
                target = root / path.lstrip("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text)
                target.chmod(0o755 if text.startswith("#!") else 0o644)
            deb = self.folder / f"{name}_{version.replace(':', '%3a')}_all.deb"
            subprocess.run(
                ["dpkg-deb", "--build", "--root-owner-group", "-Znone", root, deb], check=True, capture_output=True
            )

    def publish(self) -> None:
        """Write the index and sign it; the key lies beside it."""
        index = []
        for deb in sorted(self.folder.glob("*.deb")):
            control = subprocess.run(["dpkg-deb", "--field", deb], check=True, capture_output=True, text=True).stdout
            digest = hashlib.sha256(deb.read_bytes()).hexdigest()
            index.append(f"{control.rstrip()}\nFilename: ./{deb.name}\nSize: {deb.stat().st_size}\nSHA256: {digest}\n")
        packages = "\n".join(index).encode()
        (self.folder / "Packages").write_bytes(packages)
        release = self.folder / "Release"
        release.write_text(
            f"Origin: {self.label.partition(' ')[0]}\nLabel: {self.label}\nDate: Thu, 01 Jan 2026 00:00:00 UTC\n"
            f"SHA256:\n {hashlib.sha256(packages).hexdigest()} {len(packages)} Packages\n"
        )
        with tempfile.TemporaryDirectory() as home:  # a short path: that of a socket may have 107 characters
            gpg = ["gpg", "--homedir", home, "--batch", "--quiet", "--yes"]
            subprocess.run(
                [*gpg, "--passphrase", "", "--quick-generate-key", "stand-in <tests@example.com>", "rsa2048", "sign"],
                check=True, capture_output=True,
            )  # fmt: skip
            told = subprocess.run(
                [*gpg, "--with-colons", "--list-keys"], check=True, capture_output=True, text=True
            ).stdout
            self.fingerprint = next(line.split(":")[9] for line in told.splitlines() if line.startswith("fpr:"))
            subprocess.run([*gpg, "--armor", "--output", self.folder / self.key, "--export"], check=True)
            subprocess.run([*gpg, "--clearsign", "--output", self.folder / "InRelease", release], check=True)
            subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)
