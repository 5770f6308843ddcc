"""Ansible action: wait for an asynchronous job and show how far it is.

    - name: Fetch
      some_module: {progress: /tmp/fetch.progress}
      async: 7200
      poll: 0
      register: job
    - name: Follow the fetch
      follow: {job: "{{ job }}", progress: /tmp/fetch.progress, limit: fetch_timeout}

``job`` is what the task said that started it, and with it where its file lies: nothing here depends on a home folder,
which two processes may see differently. ``progress`` is a file on the target that holds one line and is rewritten as
the job goes, ``limit`` the name of the variable that decides how long it may take. Whom the job waits for is shown at
once. The result is the job's own, and so is its failure. A job goes on when the controller is lost; the next run finds
what it made.
"""

from __future__ import annotations

import shlex
import time
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

display = Display()

LOOKS = 10  # in a second
RUNS = '"finished": false'  # in the file of a job, as ansible.builtin.async_wrapper writes it
UNKNOWN = "could not find job"  # of ansible.builtin.async_status
WAITS = "waiting for process "  # of hostlib/locks.py: another run holds what this one needs
SHOW_SECONDS = 5.0  # a line no oftener than this, and no rarer: a long step is seen to be alive


def elapsed(seconds: float) -> str:
    """Minutes and seconds, as in ``2m05s``."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}m{rest:02d}s"


def killed(line: str) -> str:
    """The message for a job that ended without an answer, after its last line of progress."""
    return f"the job was killed ({line or 'before it began'}): run the play again, it goes on from there"


class ActionModule(ActionBase):
    """See the module docstring."""

    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        _, args = self.validate_argument_spec(
            argument_spec={
                "job": {"type": "dict", "required": True},
                "progress": {"type": "str", "required": True},
                "limit": {"type": "str", "required": True},
            }
        )
        jid, file = args["job"]["ansible_job_id"], args["job"]["results_file"]
        folder = file.rpartition("/")[0]
        host = (task_vars or {})["inventory_hostname"]
        started = shown_at = time.monotonic()
        shown = ""
        while True:
            ended = self._ends_soon(file)
            line = "" if ended else self._line(args["progress"])
            if ended or self._is_gone(jid):
                job = self._job("status", jid, folder, task_vars)
                if job.get("finished"):
                    break
                if job.get("failed") and "started" not in job:
                    raise AnsibleActionFail(f"lost the job {jid}: {job.get('msg')}")
                if not ended:
                    raise AnsibleActionFail(
                        f"lost the job {jid}: {full}" if (full := self._full(folder)) else killed(line)
                    )
            now = time.monotonic()
            if line and (now - shown_at >= SHOW_SECONDS or (WAITS in line and line != shown)):
                display.display(f"  {host}  {elapsed(now - started):>7}  {line}")
                shown_at, shown = now, line
        if job.get("failed") and job.get("msg") == UNKNOWN:
            raise AnsibleActionFail(f"lost the job {jid}: {self._full(folder) or job['msg']}")
        self._job("cleanup", jid, folder, task_vars)
        if job.get("failed") and "No start of json char" in str(job.get("msg")):  # what watches the job says so
            error_lines = str(job.get("stderr", "")).strip().splitlines()
            raise AnsibleActionFail(
                killed(self._line(args["progress"])) + (f". It said: {error_lines[-1]}" if error_lines else "")
            )
        if job.get("failed") and str(job.get("msg")).startswith("Timeout exceeded"):
            raise AnsibleActionFail(
                f"the job took too long ({self._line(args['progress'])}): raise {args['limit']}, or run the play "
                "again, which goes on from there"
            )
        for internal in ("ansible_job_id", "finished", "started", "results_file", "stdout", "stderr"):
            job.pop(internal, None)
        return job

    def _ends_soon(self, file: str) -> bool:
        """True when the job has ended, at once; False after a second in which it has not.

        Looked at on the host, and there without Python: most jobs take a few seconds, and users wait for each of them.
        """
        running = f"grep -qs {shlex.quote(RUNS)} {shlex.quote(file)}"
        wait = f"for look in {' '.join(map(str, range(LOOKS)))}; do {running} || exit 0; sleep 0.1; done; echo runs"
        return "runs" not in self._low_level_execute_command(wait)["stdout"]

    def _line(self, path: str) -> str:
        return str(self._low_level_execute_command(f"cat {shlex.quote(path)}")["stdout"]).strip()

    def _full(self, folder: str) -> str:
        """The reason for which nothing is known of a job: its file could not be written. Empty where that is not so."""
        free = f"df -Pk {shlex.quote(folder)} | awk 'NR == 2 {{ print $4 }}'"
        if str(self._low_level_execute_command(free)["stdout"]).strip() != "0":
            return ""
        return f"No space left on device, below {folder}: make room, and run the play again"

    def _is_gone(self, jid: str) -> bool:
        """True where no process of the job is left. A killed job never says that it is finished."""
        # Its processes have the first part of the id among their arguments, and so would this very search without
        # the brackets. Where there is no /proc, nothing is known.
        name = shlex.quote(f"[{jid[0]}]{jid[1:].partition('.')[0]}")
        search = f"test ! -e /proc/self/cmdline || grep -aqs -- {name} /proc/[0-9]*/cmdline || echo gone"
        return "gone" in self._low_level_execute_command(search)["stdout"]

    def _job(self, mode: str, jid: str, folder: str, task_vars: dict[str, Any] | None) -> dict[str, Any]:
        result: dict[str, Any] = self._execute_module(
            module_name="ansible.builtin.async_status",
            module_args={"jid": jid, "mode": mode, "_async_dir": folder},
            task_vars=task_vars,
        )
        return result
