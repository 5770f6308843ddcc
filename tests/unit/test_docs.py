"""What the pages say exists: the files and headings that they link to, and the commands and options that they show."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from nexus_tasks.fleet.verbs import VERBS
from tests.conftest import ROOT

PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("roles/*/README.md"), *ROOT.glob("templates/**/*.md")]
TOLD = {page: page.read_text(encoding="utf-8") for page in PAGES}
COMMAND = re.compile(r"nox -s ([a-z]+)(?: -- ([^\n`|#&;]*))?")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
OTHERS_OPTIONS = {"deploy"}  # ansible-playbook's


def headings(text: str) -> Iterator[str]:
    """The anchors that a heading gets on a page, as GitHub makes them."""
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.strip().lower())
        yield re.sub(r"[^\w\- ]", "", words).replace(" ", "-")


def shown() -> dict[str, set[str]]:
    """The options that the pages show with each nox session."""
    found: dict[str, set[str]] = defaultdict(set)
    for text in TOLD.values():
        for session, arguments in COMMAND.findall(text):
            found[session] |= set(OPTION.findall(arguments))
    return found


def own(session: str) -> set[str]:
    """The options that a session says it has."""
    words = ["control", session] if session in VERBS else [session]
    command = [sys.executable, "-m", f"nexus_tasks.{words[0]}", *words[1:], "--help"]
    said = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return set(OPTION.findall(said))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_links_to_is_there(page: Path) -> None:
    missing = []
    for target in re.findall(r"\]\(([^)\s]+)\)", TOLD[page]):
        file, _, anchor = target.partition("#")
        other = (page.parent / file).resolve() if file else page
        if "://" not in target and not (
            other.exists() and (not anchor or anchor in headings(other.read_text(encoding="utf-8")))
        ):
            missing.append(target)
    assert not missing


def test_the_sessions_that_the_pages_name_are_those_of_the_noxfile() -> None:
    said = subprocess.run(["nox", "-l"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    sessions = set(re.findall(r"^[-*] ([a-z]+) ->", said, re.MULTILINE))
    assert set(shown()) <= sessions
    listed = TOLD[ROOT / "README.md"] + TOLD[ROOT / "CONTRIBUTING.md"]
    assert not {session for session in sessions if not re.search(rf"(?:nox -s |`){session}\b", listed)}


@pytest.mark.parametrize("session", sorted(set(shown()) - OTHERS_OPTIONS - {"lint", "lock", "ray", "soak", "tests"}))
def test_the_options_that_the_pages_show_are_those_of_the_command(session: str) -> None:
    assert shown()[session] <= own(session)


@pytest.mark.parametrize(("session", "page"), [("benchmark", "benchmarks.md"), ("batch", "batches.md")])
def test_the_page_of_a_command_has_every_option(session: str, page: str) -> None:
    assert own(session) - {"--help"} <= set(OPTION.findall(TOLD[ROOT / "docs" / page]))
