"""Run a notebook with parameters and make a page of it: papermill and nbconvert, set up for reports.

    notebook.check_parameters(Path("notebooks/benchmark.ipynb"), {"history_runs": "5"})
    executed = notebook.execute(source, Path("out.ipynb"), parameters, cwd=root)
    html = notebook.export(executed, template=..., title="...")

Importing this takes about a second, so import it where it is needed.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import papermill
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import ensure_event_loop
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbconvert.exporters import HTMLExporter
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError

from nexus_tasks.core.errors import ReportError, UsageError

# papermill imports black, where it is installed, while it runs a notebook; two threads that do so at once may each see
# half of it. Here it is imported once, before there are threads.
if importlib.util.find_spec("black"):
    importlib.import_module("black")

CELL_TIMEOUT_S = 300
LAUNCH = (sys.executable, "-m", "ipykernel_launcher")


class EnvironmentKernel(AsyncKernelManager):
    """A kernel of this very Python, whatever kernel specs a user's Jupyter has under the same name."""

    transport_encryption = "auto"  # its ports on loopback are open to every user of the machine

    @property
    def kernel_spec(self) -> KernelSpec:
        return KernelSpec(
            # The interrupt that comes with every shutdown is logged as an error; real ones are tracebacks.
            argv=[*LAUNCH, "--log-level=CRITICAL", "-f", "{connection_file}"],
            display_name="Llama Nexus",
            language="python",
            metadata={"supported_encryption": "curve"},
        )


def check_parameters(source: Path, given: Mapping[str, str], reserved: frozenset[str]) -> dict[str, Any]:
    """The parameters as the notebook wants them, before anything runs.

    Args:
        source: a notebook with a cell tagged ``parameters``.
        given: values as typed; each is read as the type that the parameter's default has.
        reserved: parameters that the caller sets itself.

    Raises:
        UsageError: the notebook has no such parameter, or the value is of another type.
    """
    known = {
        name: type(ast.literal_eval(parameter["default"]))
        for name, parameter in papermill.inspect_notebook(source).items()
        if name not in reserved
    }
    values: dict[str, Any] = {}
    for name, text in given.items():
        if name not in known:
            raise UsageError(
                f"{source.name} has no parameter {name!r}",
                hint=f"it has {', '.join(sorted(known)) or 'none'}",
            )
        try:
            values[name] = known[name](text)
        except ValueError as error:
            raise UsageError(
                f"parameter {name} of {source.name} must be {_article(known[name])}, not {text!r}",
                hint=f"write it as -p {name} VALUE",
            ) from error
    return values


def execute(source: Path, output: Path, parameters: Mapping[str, Any], *, cwd: Path) -> NotebookNode:
    """Run a copy of a notebook; ``output`` is written as cells finish, so also when one of them fails.

    Raises:
        ReportError: a cell failed; the message names it and the exception, the hint names ``output``.
    """
    try:
        # The kernel gets its folder by ``resources``: papermill's own ``cwd`` changes that of the whole
        # process, which other threads share.
        executed: NotebookNode = papermill.execute_notebook(
            source.resolve(),
            output.resolve(),
            dict(parameters),
            kernel_name="python3",
            kernel_manager_class=EnvironmentKernel,
            execution_timeout=CELL_TIMEOUT_S,
            progress_bar=False,
            resources={"metadata": {"path": str(cwd)}},
        )
        return executed
    except PapermillExecutionError as error:
        first_line = error.source.strip().partition("\n")[0]
        cell = f"cell [{error.exec_count}] of {source.name} (`{first_line}`)"
        what = " ".join(f"{cell} failed: {error.ename}: {error.evalue}".split())
        raise ReportError(what, hint=f"the notebook as far as it came is {output}") from error
    except (DeadKernelError, CellTimeoutError, RuntimeError) as error:
        # RuntimeError is what nbclient raises for a kernel that never answered.
        what = f"the kernel of {source.name} stopped: {' '.join(str(error).split())}"
        raise ReportError(what, hint=f"the notebook as far as it came is {output}") from error
    finally:
        ensure_event_loop().close()  # jupyter's: one a thread, which nobody else closes


def export(executed: NotebookNode, *, template: Path, title: str, inputs: str, sides: str = "") -> str:
    """A page without code, scripts or anything to load.

    Args:
        executed: a notebook with outputs.
        template: a Jinja template of a whole page; its folder is searched for what it includes.
        title: the page's title.
        inputs: a fingerprint that the page carries.
        sides: the run ids that it was made of, as JSON, where somebody chose them.
    """
    make: Callable[..., HTMLExporter] = HTMLExporter  # its constructor has no types
    exporter = make(
        template_file=str(template), exclude_input=True, mathjax_url="", require_js_url="", anchor_link_text=""
    )
    html, _ = exporter.from_notebook_node(executed, {"metadata": {"name": title, "inputs": inputs, "sides": sides}})
    return str(html)


def _article(kind: type) -> str:
    return {int: "a whole number", float: "a number", str: "text"}.get(kind, kind.__name__)
