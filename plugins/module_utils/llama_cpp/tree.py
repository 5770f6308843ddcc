"""llama.cpp's source tree: found in a folder, and identified as git does. Python 3.9's standard library only."""

from __future__ import annotations

import hashlib
import os
import re

from .errors import ReleaseError

PROJECT = re.compile(r"^\s*project\s*\(\s*\"?llama\.cpp\"?[\s)]", re.MULTILINE)


def source_tree(folder: str) -> str:
    """The one folder below another that is the top of a llama.cpp tree.

    Raises ReleaseError where there is none, or more than one.
    """
    trees = []
    for parent, folders, names in os.walk(folder):
        if "CMakeLists.txt" in names:
            with open(os.path.join(parent, "CMakeLists.txt"), encoding="utf-8", errors="replace") as stream:
                if PROJECT.search(stream.read()):
                    trees.append(parent)
                    folders.clear()
    if len(trees) != 1:
        raise ReleaseError(
            f"the source package holds {len(trees) or 'no'} llama.cpp tree{'s' * (len(trees) > 1)}, not one"
        )
    return trees[0]


def git_tree_id(folder: str) -> str | None:
    """The id that git gives a tree of these files; None for a folder without any, which git does not know.

    Source: gitformat-pack(5) and git's object format: SHA-1 over mode, name and id of each entry, folders sorted as if
    their names ended with a slash.
    """
    entries = []
    for entry in os.scandir(folder):
        if entry.name == ".git":  # of a submodule; git itself keeps nothing of that name
            continue
        if entry.is_symlink():
            mode, digest = b"120000", _object_id(b"blob", os.fsencode(os.readlink(entry.path)))
        elif entry.is_dir():
            below = git_tree_id(entry.path)
            if below is None:
                continue
            mode, digest = b"40000", below
        else:
            with open(entry.path, "rb") as stream:
                digest = _object_id(b"blob", stream.read())
            mode = b"100755" if entry.stat().st_mode & 0o100 else b"100644"
        name = os.fsencode(entry.name)
        entries.append((name + b"/" * (mode == b"40000"), mode + b" " + name + b"\0" + bytes.fromhex(digest)))
    return _object_id(b"tree", b"".join(row for _, row in sorted(entries))) if entries else None


def _object_id(kind: bytes, content: bytes) -> str:
    return hashlib.sha1(kind + b" %d\0" % len(content) + content).hexdigest()  # noqa: S324 - git's own
