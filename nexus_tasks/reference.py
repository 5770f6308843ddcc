"""Write docs/reference.md: the options of an instance, and what becomes of every flag of llama-server.

    nox -s reference -- PATH/TO/llama-server

The options and what becomes of them are what role llama_server goes by, the flags come from the server's ``--help``.
A flag that no option says and that is not refused is one for ``extra_args``; a new version's flags turn up there, and a
test says so.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nexus_tasks.core.errors import UsageError, command_line
from nexus_tasks.core.provenance import ROOT
from nexus_tasks.fleet import server_options
from nexus_tasks.hostlib import llama_server_help
from nexus_tasks.hostlib.llama_server_flags import NOT_OF_ROUTERS, Rules

PAGE = ROOT / "docs" / "reference.md"
COMMIT = "llama_cpp_commit"
OWN = "nothing: the role's own"
# What becomes of the options that the table of flags does not have.
ELSEWHERE = {
    "model": "`--model`, `--alias`",
    "gpus": "the variable `CUDA_VISIBLE_DEVICES`; under Docker `NVIDIA_VISIBLE_DEVICES`, for NVIDIA's runtime",
    "sampling_preset": "the flags of the next seven",
    "environment": "variables of the process",
    "runtime": OWN,
    "min_decode_tps": OWN,
    "max_regression": OWN,
    "allow_overcommit": OWN,
    "extra_args": "what it holds",
}

HEAD = """\
# Reference

<!-- Made by `nox -s reference`; edit roles/llama_server/meta/argument_specs.yml and vars/main.yml instead. -->

Every option of `llama_server_instances`, and what becomes of every flag of llama-server {version}. The role's own
variables are in [roles/llama_server/defaults/main.yml](../roles/llama_server/defaults/main.yml).

## Options of an instance

An option that is set, or has a default, becomes the flag beside it. Of two flags the first is for true and the second
for false; one alone is left out for false. An instance without `api_keys` is started with `--cors-origins localhost`
unless its `extra_args` hold that flag; nothing else stands on the command line.
"""

ROUTER = """
## Options of a router's models

An instance with `models` is a router: it loads several models on demand and answers by the model that a request names.

```yaml
llama_server_instances:
  router:
    port: 8600
    models_max: 2
    models:
      chat: {model: qwen3-8b, ctx_size: 16384, sampling_preset: balanced}
      code: {model: qwen3-coder-30b-a3b, ctx_size: 32768, load_on_startup: true}
```
"""


@dataclass(frozen=True)
class Flag:
    """One flag of llama-server: its spellings, as it orders them, and what its argument is called."""

    spellings: tuple[str, ...]
    value: str


def flags_of_help(text: str) -> list[Flag]:
    """The flags that ``llama-server --help`` lists, in its order."""
    return [Flag(spellings, value) for spellings, value in llama_server_help.parse_help(text)]


def for_extra_args(flags: Sequence[Flag], rules: Rules) -> list[Flag]:
    """The flags that only ``extra_args`` can say."""
    known = {*rules.spellings(), *(flag for group in rules.refused_flags for flag in group["flags"])}
    return [flag for flag in flags if not known & set(flag.spellings)]


def page(help_text: str, version: str, rules: Rules) -> str:
    """The page as Markdown."""
    return "\n".join([HEAD.format(version=version), *_sections(flags_of_help(help_text), rules)]) + "\n"


def _sections(flags: Sequence[Flag], rules: Rules) -> Iterator[str]:
    instance, router_model = rules.specs["instance"], rules.specs["router_model"]
    yield from _table("option", "becomes", "value", "meaning")
    for name, spec in instance.items():
        becomes = ELSEWHERE.get(name) or _names(rules.flags_of(name))
        yield _row(f"`{name}`", becomes, _value(spec), _meaning(spec))
    yield ROUTER
    yield f"The router itself takes\n{_list(rules.router_options)}."
    yield "Its models take the options below, and those above that are not the router's, but for"
    yield f"{_list(NOT_OF_ROUTERS)}, which need an instance of their own.\n"
    yield from _table("option", "value", "meaning")
    for name, spec in router_model.items():
        yield _row(f"`{name}`", _value(spec), _meaning(spec))
    yield "\n## Flags for extra_args\n"
    yield "What no option says. `llama-server --help` tells what they mean; each word is an item of its own:"
    yield '`extra_args: ["--seed", "7"]`.\n'
    yield from _table("flag", "argument")
    for flag in for_extra_args(flags, rules):
        yield _row(_names(flag.spellings), f"`{flag.value}`" if flag.value else "")
    yield "\n## Flags that are refused\n"
    yield from _table("flags", "why")
    for group in rules.refused_flags:
        yield _row(_names(group["flags"]), group["because"])


def _table(*heads: str) -> Iterator[str]:
    yield _row(*heads)
    yield "|" + "---|" * len(heads)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _list(names: Sequence[str]) -> str:
    return f"{_names(names[:-1])} and `{names[-1]}`"


def _value(spec: Mapping[str, Any]) -> str:
    """The values of an option, whether it must be set, and its default."""
    kinds = {"str": "text", "int": "number", "float": "number", "bool": "true, false", "dict": "dict"}
    if "options" in spec:
        kind = f"list of {{{', '.join(spec['options'])}}}"
    else:
        kind = ", ".join(map(str, spec.get("choices", []))) or kinds[spec.get("elements", spec["type"])]
        kind = f"list of {kind}" if spec["type"] == "list" else kind
    if spec.get("required"):
        return f"{kind}; required"
    return f"{kind}; default {spec['default']}" if "default" in spec else kind


def _meaning(spec: Mapping[str, Any]) -> str:
    return re.sub(r"C\(([^)]*)\)", r"`\1`", str(spec["description"]))


def ask(server: Path) -> tuple[str, str]:
    """The help and the version of a llama-server.

    Raises:
        UsageError: it can't be run, or it is not of the pinned version.
    """
    try:
        helped, version = (
            subprocess.run([server, flag], capture_output=True, text=True, check=True)
            for flag in ("--help", "--version")
        )
    except (OSError, subprocess.CalledProcessError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"exit status {error.returncode}"
        raise UsageError(f"{server} can't be run ({reason})", hint="name the llama-server of a release") from error
    pinned = yaml.safe_load((ROOT / "roles" / "llama_cpp" / "defaults" / "main.yml").read_text(encoding="utf-8"))
    if pinned[COMMIT][:9] not in version.stdout + version.stderr:
        raise UsageError(
            f"{server} is not of the pinned version {pinned['llama_cpp_ref']}",
            hint="build it first: ansible-playbook playbooks/build.yml -l local",
        )
    return helped.stdout, str(pinned["llama_cpp_ref"])


@command_line
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="nox -s reference --", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("server", metavar="PATH", type=Path, help="the llama-server of a release of the pinned version")
    help_text, version = ask(parser.parse_args(argv).server)
    PAGE.write_text(page(help_text, version, server_options.rules()), encoding="utf-8")
    sys.stdout.write(f"wrote {PAGE.relative_to(ROOT)}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
