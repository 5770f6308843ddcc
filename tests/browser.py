"""Pages as a browser sees them: what they load, and whether they fit."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

needed = pytest.mark.skipif(
    CHROMIUM is None, reason="chromium is not installed, so no browser has opened the report (apt install chromium)"
)

TOO_WIDE = """<pre id="too-wide"></pre><script>
const wide = [...document.querySelectorAll("html, .scroll, td, th, dd, h1, pre")].filter(
  (one) => one.scrollWidth > one.clientWidth + 1 && one.clientWidth);
document.getElementById("too-wide").textContent = wide.map((one) => one.tagName + " " + one.className).join(", ");
</script>"""


class Loads(HTMLParser):
    """What a page would load or run: links to other pages are no loads."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given: Mapping[str, str] = {name: value or "" for name, value in attrs}
        if tag in {"script", "link", "iframe", "object", "embed", "base"}:
            self.found.append(tag)
        for name, value in given.items():
            if name in {"src", "srcset", "poster", "data", "background"} or name.startswith("on"):
                self.found.append(f"{tag} {name}={value}")
            if name in {"href", "xlink:href"} and tag != "a" and not value.startswith("#"):
                self.found.append(f"{tag} {name}={value}")
            if tag == "a" and name == "href" and re.match(r"\w+:|//|/", value):
                self.found.append(f"{tag} {name}={value}")
            if re.search(r"url\((?!#)", value):
                self.found.append(f"{tag} {name}={value}")

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "style":
            self.found += re.findall(r"@import.*|url\([^)]*\)", data)


def show(page: Path, scratch: Path, *, dark: bool = False, width: int = 1100) -> subprocess.CompletedProcess[str]:
    """Open a page with nothing to be reached; what it became is on stdout, its console on stderr."""
    assert CHROMIUM is not None
    return subprocess.run(
        [
            CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={scratch / 'profile'}",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}", f"--log-net-log={scratch / 'net.json'}",
            "--enable-logging=stderr", f"--window-size={width},3000", "--dump-dom", page.as_uri(),
        ],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip


def visit(address: str, scratch: Path) -> str:
    """What a page of a web server became once it was still, in a browser that keeps what it was told to keep."""
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={scratch / 'profile'}", "--virtual-time-budget=10000", "--dump-dom", address,
        ],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    return done.stdout


def requests(net_log: Path) -> set[str]:
    """The addresses that a page asked for, by the browser's log; its own calls home have no origin."""
    asked = (event.get("params", {}) for event in json.loads(net_log.read_text())["events"])
    return {ask["url"] for ask in asked if "url" in ask and ask.get("initiator", "not an origin") != "not an origin"}


def too_wide(page: Path, scratch: Path, width: int) -> str:
    """The elements of a page that don't fit a window of this width, in CSS pixels; empty where all do."""
    copy = scratch / "measured.html"
    copy.write_text(page.read_text().replace("</body>", f"{TOO_WIDE}</body>"))
    found = re.search(r'<pre id="too-wide">(.*?)</pre>', show(copy, scratch, width=width).stdout)
    assert found
    return found[1]
