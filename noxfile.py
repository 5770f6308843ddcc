"""Sessions of Llama Nexus. ``nox -s NAME -- OPTIONS`` passes options through.

Nearly all work in the one environment ``.venv``, made from requirements.lock by
the first that needs it, with this project installed as it lies here. Most are a
line around ``python -m nexus_tasks.<command>``, which runs without nox as well,
and say more with ``-- --help``.
"""

from __future__ import annotations

import functools
import hashlib
import os
import runpy
import shutil
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2024.3.2"
nox.options.sessions = ["lint", "tests"]

ROOT = Path(__file__).parent
VENV = ROOT / ".venv"
LOCK = ROOT / "requirements.lock"
RAY_LOCK = ROOT / "requirements-ray.lock"
HOSTLIB = ROOT / "plugins" / "module_utils" / "hostlib"
ENVIRONMENT = runpy.run_path(str(HOSTLIB / "environment.py"))
PACKAGES = runpy.run_path(str(HOSTLIB / "python_packages.py"))
ENVIRONMENT["have_a_home"]()  # uv and pip want one, too
ENVIRONMENT["have_plain_python"]()


# Said of each session: a default of this file gives way to NOX_DEFAULT_VENV_BACKEND and its like in a user's shell.
session = functools.partial(nox.session, venv_backend="none", python=False)


def environment(session: nox.Session) -> None:
    """Make ``.venv`` from the lock unless it is there already, and put it first on the session's PATH."""
    if sys.version_info < (3, 11):
        session.error(f"Python 3.11 or newer is needed, nox runs on {sys.version.split()[0]}: {sys.executable}")
    python, stamp = VENV / "bin" / "python", VENV / "made-of.sha256"
    # Scripts in there name their folder.
    made_of = str(ROOT).encode() + LOCK.read_bytes() + (ROOT / "pyproject.toml").read_bytes()
    wanted = hashlib.sha256(made_of).hexdigest()
    if not python.exists() or not stamp.exists() or stamp.read_text() != wanted:
        session.log("making .venv from requirements.lock: up to three minutes the first time")
        install(session, python)
        look(session, python)
        stamp.write_text(wanted)
    session.env["PATH"] = os.pathsep.join([str(python.parent), session.env.get("PATH") or os.environ["PATH"]])
    session.env["VIRTUAL_ENV"] = str(VENV)


def install(session: nox.Session, python: Path) -> None:
    """Install what the lock lists, nothing else, and this project as it lies here; with uv where there is one."""
    uv = shutil.which("uv")
    if not Path(sys.executable).is_relative_to(VENV):  # nox may run from there itself
        shutil.rmtree(VENV, ignore_errors=True)
        # virtualenv comes with nox; the venv module of Debian's python3 lacks ensurepip.
        make = [uv, "venv"] if uv else [sys.executable, "-m", "virtualenv"]
        installer(session, *make, "--quiet", "--python", sys.executable, str(VENV))
    if uv:
        # Compiled, as pip does: else each program that is started compiles what it imports, half a second of Ansible's.
        installer(session, uv, "pip", "sync", "--quiet", "--compile-bytecode", "--python", str(python), str(LOCK))
    else:
        add(session, python, "-r", str(LOCK))
    add(session, python, "--no-deps", "--no-build-isolation", "--editable", str(ROOT))  # the lock has the build backend


def add(session: nox.Session, python: Path, *requirements: str) -> None:
    """Install packages into the environment, beside those that are there."""
    if uv := shutil.which("uv"):
        installer(
            session, uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", str(python), *requirements
        )
    else:
        pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off"]
        installer(session, *pip, *requirements, settings_of=str(python))  # not quiet: it takes a minute or two


def installer(session: nox.Session, *command: str, settings_of: str | None = None) -> None:
    """Run uv, pip or virtualenv: of the user's settings those of the package index are taken, and no others."""
    made_of = PACKAGES["installer_environment"](settings_of)
    session.run(*command, env=made_of, include_outer_env=False, external=True)


def look(session: nox.Session, python: Path) -> None:
    """Stop where packages are not in ``.venv`` though their installer was content."""
    missing = PACKAGES["missing"](str(python), {"all": LOCK.read_text(), "project": "llama-nexus"})
    lacking = ["pip"] if missing is None else [*missing["all"], *missing["project"]]
    if lacking:
        session.error(f".venv lacks {', '.join(lacking)}: see pip config list, or uv.toml, for what leads elsewhere")


def run(session: nox.Session, program: str, *args: str) -> None:
    """Run a program of the environment; its exit status is the session's."""
    environment(session)
    # By default nox kills 0.3 s after Ctrl-C: records have to be finished, and what was begun on hosts has to be told.
    session.run(str(VENV / "bin" / program), *args, external=True, interrupt_timeout=60, terminate_timeout=10)


def task(session: nox.Session, module: str, *args: str) -> None:
    """Run ``python -m nexus_tasks.<module>`` in the environment."""
    run(session, "python", "-m", f"nexus_tasks.{module}", *args)


@session(default=False)
def quickstart(session: nox.Session) -> None:
    """Build llama.cpp here, serve a model, measure it, and report."""
    task(session, "quickstart", *session.posargs)


@session(default=False)
def deploy(session: nox.Session) -> None:
    """Run deploy.yml, watched; takes ansible-playbook's options.

    As in ``nox -s deploy -- -l gpu-hosts --check --diff``.
    """
    task(session, "deploy", *session.posargs)


@session(default=False)
def status(session: nox.Session) -> None:
    """Show what runs: on gpu-hosts, or here while there are none."""
    task(session, "control", "status", *session.posargs)


@session(default=False)
def logs(session: nox.Session) -> None:
    """Show the ends of the servers' logs."""
    task(session, "control", "logs", *session.posargs)


@session(default=False)
def start(session: nox.Session) -> None:
    """Start the servers of a pattern or HOST/INSTANCE; prove them."""
    task(session, "control", "start", *session.posargs)


@session(default=False)
def stop(session: nox.Session) -> None:
    """Stop them, until they are started or deployed again."""
    task(session, "control", "stop", *session.posargs)


@session(default=False)
def restart(session: nox.Session) -> None:
    """Restart them host by host, and prove each."""
    task(session, "control", "restart", *session.posargs)


@session(default=False)
def rollback(session: nox.Session) -> None:
    """Go back to the generation proven before, host by host."""
    task(session, "control", "rollback", *session.posargs)


@session(default=False)
def benchmark(session: nox.Session) -> None:
    """Measure servers: of a pattern, HOST/INSTANCE or a URL.

    Without one, those on gpu-hosts, or those here while there are none.
    """
    task(session, "benchmark", *session.posargs)


@session(default=False)
def plan(session: nox.Session) -> None:
    """Tell what servers will take of GPUs and host: MODEL or -l HOSTS.

    As in ``nox -s plan -- gpt-oss-20b-mxfp4 --gpus 24576 -c 65536`` or ``nox -s plan -- -l gpu-hosts``.
    """
    task(session, "plan", *session.posargs)


@session(default=False)
def batch(session: nox.Session) -> None:
    """Put the prompts of a file to servers; lose none.

    ``nox -s batch -- FILE [TARGET ...]``, or resume, cancel, status, retry-failed, export or list.
    """
    task(session, "batch", *session.posargs)


@session(default=False)
def usage(session: nox.Session) -> None:
    """Tell who used what through the gateways: requests and tokens by user, model and time.

    As in ``nox -s usage -- --since 7d --by user,model``.
    """
    task(session, "usage", *session.posargs)


@session(default=False)
def models(session: nox.Session) -> None:
    """Look after models on hosts: list, fetch, verify, remove, bundle.

    As in ``nox -s models -- list -l gpu-hosts``.
    """
    task(session, "models", *session.posargs)


@session(default=False)
def registry(session: nox.Session) -> None:
    """Keep what is known of models, and tell where they can run.

    ``nox -s registry -- add MODEL``, or list, show, rate, recommend, export, import.
    """
    task(session, "registry", *session.posargs)


@session(default=False)
def compare(session: nox.Session) -> None:
    """Tell whether one benchmark is better than another."""
    task(session, "compare", *session.posargs)


@session(default=False)
def monitor(session: nox.Session) -> None:
    """Show the fleet live: slots, tokens/s, memory, temperature."""
    task(session, "monitor", *session.posargs)


@session(default=False)
def accuracy(session: nox.Session) -> None:
    """Measure the load generator: its errors, and what it costs."""
    task(session, "accuracy", *session.posargs)


@session(default=False)
def report(session: nox.Session) -> None:
    """Render the reports that are not up to date, and their index."""
    task(session, "report", *session.posargs)


@session(default=False)
def export(session: nox.Session) -> None:
    """Write a benchmark's rows as CSV, Parquet or JSON."""
    task(session, "export", *session.posargs)


@session(default=False)
def reference(session: nox.Session) -> None:
    """Write docs/reference.md; the argument is a llama-server's path."""
    task(session, "reference", *session.posargs)


@session(default=False)
def ray(session: nox.Session) -> None:
    """Install Ray into .venv, for batches beyond one machine."""
    environment(session)
    add(session, VENV / "bin" / "python", "-r", str(RAY_LOCK))


@session()
def lint(session: nox.Session) -> None:
    """Check style, types, imports, notebooks, YAML and roles."""
    run(session, "ruff", "check", ".")
    run(session, "ruff", "format", "--check", ".")
    run(session, "mypy")
    run(session, "lint-imports", "--no-cache")
    run(session, "nbstripout", "--verify", *map(str, sorted((ROOT / "notebooks").glob("*.ipynb"))))
    run(session, "yamllint", "--strict", ".")
    run(session, "ansible-lint", "--offline", "--strict")


@session()
def tests(session: nox.Session) -> None:
    """Run the tests; the first run builds llama.cpp.

    Several at the same time; with the option ``-n 0`` one after the other. Those marked ``soak`` are left out.
    """
    pytest(session, "not soak")


@session(default=False)
def soak(session: nox.Session) -> None:
    """Run what is left out of ``tests``: the other cases of slow matrices."""
    pytest(session, "soak")


def pytest(session: nox.Session, marked: str) -> None:
    """Run the tests that are marked so."""
    # Tests start programs by the hundreds: with what Python keeps compiled each of them costs half.
    session.env["PYTHONDONTWRITEBYTECODE"] = ""
    run(session, "pytest", "--numprocesses=auto", "--durations=15", "-m", marked, *session.posargs)


@session(default=False)
def lock(session: nox.Session) -> None:
    """Renew requirements.lock, and those of Ray, tests and host_tools (needs uv)."""

    def compile_(into: Path, *sources: str | Path) -> None:
        session.run("uv", "pip", "compile", "--universal", "--generate-hashes", "--no-emit-index-url",
                    "--no-annotate", "--quiet", "--custom-compile-command", "nox -s lock", *session.posargs,
                    *map(str, sources), "--output-file", str(into), external=True)  # fmt: skip

    project = ("--python-version", "3.11", "pyproject.toml")
    compile_(LOCK, *project, "--group", "build", "--group", "test", "--group", "lint")
    compile_(RAY_LOCK, *project, "--group", "ray", "--constraint", LOCK)
    for source in sorted((ROOT / "tests").glob("*/*.in")):
        compile_(source.with_suffix(".txt"), "--python-version", "3.11", "--no-deps", source)
    for source in sorted((ROOT / "roles").glob("*/files/*.in")):
        compile_(source.with_suffix(".txt"), "--python-version", "3.9", source)
