"""llama-fit-params as it is called and read; a script stands for it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nexus_tasks.hostlib import fit_params
from nexus_tasks.hostlib.fit_params import Device, FitError

FIGURES = 'print("CUDA0 10694 786 448 \\nHost 379 0 55 ")'


def program(folder: Path, code: str) -> str:
    path = folder / fit_params.PROGRAM
    path.write_text(f"#!{sys.executable}\nimport os, sys\n{code}\n")
    path.chmod(0o755)
    return str(path)


def test_figures_are_read_by_device(tmp_path: Path) -> None:
    found = fit_params.ask(program(tmp_path, FIGURES), "m.gguf", ["-c", "4096"])
    assert found == [Device("CUDA0", 10694, 786, 448), Device("Host", 379, 0, 55)]


def test_the_shells_own_options_for_llama_cpp_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_ARG_CTX_SIZE", "1")
    told = tmp_path / "told"
    code = f'open({str(told)!r}, "w").write(repr((sys.argv[1:], [n for n in os.environ if n.startswith("LLAMA")])))\n'
    fit_params.ask(program(tmp_path, code + FIGURES), "m.gguf", ["-np", "2"], environment={"MORE": "1"})
    assert told.read_text() == "(['--fit-print', 'on', '--no-repack', '-m', 'm.gguf', '-np', '2'], [])"


REFUSED = {
    "in the log": ('sys.stderr.write("0.1 I x\\n0.2 E load: no tensor\\nlast\\n"); sys.exit(1)', "load: no tensor"),
    "usage": ('sys.stderr.write("error: invalid argument: -x\\n\\nusage\\n"); sys.exit(1)', "invalid argument: -x"),
    "killed": ("os.abort()", "exit status -6"),
    "no figures": ('print("hello")', "gives no figures"),
    "cut off": ('print("CUDA0 1 2 3 ")', "gives no figures"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_gives_no_figures_is_told_in_one_line(case: str, tmp_path: Path) -> None:
    code, wanted = REFUSED[case]
    with pytest.raises(FitError, match=wanted) as told:
        fit_params.ask(program(tmp_path, code), "m.gguf", [])
    assert "\n" not in str(told.value)


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FitError, match="gone can't be run: No such file"):
        fit_params.ask(str(tmp_path / "gone"), "m.gguf", [])


def test_headers_become_files_of_the_true_size_that_take_no_room(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    (tmp_path / "b.gguf").write_bytes(b"GGUF")
    first = fit_params.lay_out(str(tmp_path), [("a.gguf", 40 << 30), ("b.gguf", 3)])
    assert first == str(tmp_path / "a.gguf")
    assert (Path(first).stat().st_size, (tmp_path / "b.gguf").read_bytes()) == (40 << 30, b"GGUF")
    assert Path(first).stat().st_blocks < 100


def test_a_size_that_no_file_can_have_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(FitError, match="can't be a file of"):
        fit_params.lay_out(str(tmp_path), [("a.gguf", (1 << 63) - 1)])
