"""Stop the servers on the hosts of a pattern: ``python -m nexus_tasks.stop [PATTERN]``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from nexus_tasks import playbook
from nexus_tasks.errors import command_line


@command_line
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="nox -s stop --", description="Stop the llama-servers of some hosts.")
    parser.add_argument("pattern", nargs="?", default="local", help="inventory pattern (default: %(default)s)")
    arguments = parser.parse_args(argv)
    console = Console()
    stats = playbook.run("playbooks/stop.yml", "--limit", arguments.pattern)
    for host in sorted(stats.get("ok", {})):
        stopped = stats.get("changed", {}).get(host, 0) > 0
        console.print(f"{host}: {'stopped' if stopped else 'nothing was running'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
