"""Text of records on pages: whatever a name holds, it stays a name."""

from __future__ import annotations

import ast
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from nexus_tasks.reports import index, markup
from nexus_tasks.reports.markup import Cell, Column
from tests import deployment_records, plan_records, report_records
from tests.batch_runs import recorded, unequal
from tests.nasty_records import NASTY, harms, shown, spoil
from tests.report_pages import SIZES
from tests.report_records import NOON, failure, simulate

RTL = "\N{HEBREW LETTER SHIN}\N{HEBREW LETTER LAMED}"
PLANS = [{"concurrency": users, "requests": 6} for users in (1, 2)]


def benchmarks(root: Path) -> list[Path]:
    """Two runs of everything that a page can show, with a failure and answers."""
    paths = []
    for place in range(2):
        made = simulate(PLANS, output_tokens=16, seed=place)
        for row in made["requests"]:
            row |= {"prompt": "asked", "answer": f"answer {place}", "backend": "b", "draft": {"n": 4, "accepted": 2}}
        made["requests"].append(failure(99, "http", "HTTP 500.", phase="run", stage=1))
        told: dict[str, Any] = {
            "server": {"argv": ["/bin/llama-server", "--alias", str(place)], "argv_sha256": str(place) * 64},
            "header": {"gpus": [{"index": 0, "name": "GPU", "driver": "1", "memory_total_mib": 9}], "tag": "t"},
            "watches": {1: {"valid": False, "reasons": ["0.90 of a core"]}},
        }
        paths.append(report_records.write(root, NOON + place * timedelta(hours=1), **{**made, **SIZES, **told}))
    return paths


def pages(root: Path) -> dict[str, str]:
    """What each notebook shows of nasty records, before it is written."""
    runs = benchmarks(root)
    deployed = deployment_records
    broken = deployed.restored("side", reason="why", log="log")
    deployed.write(
        root, NOON, deployed.host("gpu-01", deployed.instance(), broken), deployed.lost("gpu-02"),
        releases=[deployed.release("b1-cuda-1", "gpu-01", "built"), deployed.release("b2-cpu-3", "gpu-02", "failed")],
    )  # fmt: skip
    batch = recorded(root, unequal().entries, 400).path
    planned = [
        plan_records.machine("gpu-01", [24576], "asked", None, memory_mib=65536), plan_records.model(0),
        plan_records.curve(0), plan_records.plan(0, [plan_records.card("CUDA0", 1, 1, 1), plan_records.own(1, 1)]),
        plan_records.server("gpu-01", "main", 0, "fits"),
        plan_records.server("gpu-01", "other", None, "unknown", problem="why"),
    ]  # fmt: skip
    plan = plan_records.write_record(root, planned, "1-a")
    for path in [*runs, *(root / "deployment").glob("*.jsonl"), batch, plan]:
        spoil(path)
    sides, one = [[str(path)] for path in runs], {"record_path": str(runs[1]), "results_dir": str(root)}
    return {
        "batch": shown("batch", record_path=str(batch)),
        "benchmark": shown("benchmark", **one),
        "sweep": shown("sweep", **one),
        "history": shown("history", record_paths=[str(path) for path in runs]),
        "fleet": shown("fleet", results_dir=str(root)),
        "builds": shown("builds", results_dir=str(root)),
        "capacity": shown("capacity", results_dir=str(root)),
        **{name: shown(name, sides=sides) for name in ("compare", "models", "tuning")},
    }


def test_no_text_of_a_record_reaches_a_page_raw(tmp_path: Path) -> None:
    made = pages(tmp_path)
    assert {name: harms(page) for name, page in made.items()} == {name: [] for name in made}
    for name, page in made.items():  # they were there
        for text in ("$x^{$", "&lt;i&gt;", "<bdi>"):
            assert text in page, name


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("plain & simple", "plain &amp; simple"),
        ("a\N{RIGHT-TO-LEFT OVERRIDE}b\x1b[1m", "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}[1m"),
        (f"of {RTL} 12 ms", f"of <bdi>{RTL}</bdi> 12 ms"),
        (f"{RTL} {RTL}-7B", f"<bdi>{RTL} {RTL}-7B</bdi>"),
        ("\ud800", "\N{REPLACEMENT CHARACTER}"),
        ("Qwen2.5-Coder-32B-Instruct.gguf",
         '<span class="long">Qwen2.5-<wbr>Coder-<wbr>32B-<wbr>Instruct.gguf</span>'),
    ],
)  # fmt: skip
def test_text_is_shown_clean_escaped_isolated_and_breakable(text: str, html: str) -> None:
    assert markup.shown(text) == html


def test_of_a_very_long_name_the_ends_are_shown_and_the_whole_is_its_title() -> None:
    name = f"begin{'x' * 300}end"
    shown_ = markup.shown(name)
    assert f'title="{name}"' in shown_
    text = re.sub(r"<[^>]*>", "", shown_)
    assert re.fullmatch("beginx+…x+end", text)
    assert len(text) <= markup.LONGEST
    assert max(len(part) for part in re.split(r"<[^>]*>", shown_)) <= markup.LONG


def test_a_command_keeps_every_letter() -> None:
    assert markup.whole("x" * 300) == "x" * 300


def test_a_table_shows_nothing_raw() -> None:
    html = markup.table([Column(NASTY)], [[Cell(NASTY, link=NASTY, detail=NASTY)]], NASTY).html
    assert harms(html) == []
    assert "<wbr>" not in re.findall(r'href="(.*?)"', html)[0]


def test_what_is_written_holds_nothing_raw_whoever_made_it(tmp_path: Path) -> None:
    index.replace(tmp_path / "page.html", f"<p>{NASTY}</p>")
    assert not re.search("[\x07\x1b\u2028\u202e]", (tmp_path / "page.html").read_text())


@pytest.mark.parametrize("template", sorted(markup.SKIN.rglob("*.html")), ids=lambda path: path.stem)
def test_what_a_template_puts_into_an_attribute_is_a_word_of_ours_or_made_for_one(template: Path) -> None:
    if template.name == "page.html":  # of nbconvert, and not of these templates
        return
    for name, value in re.findall(r'([\w-]+)="([^"]*\{\{[^"]*)"', template.read_text()):
        made_for_one = all(shown_.endswith("|attribute }}") for shown_ in re.findall(r"\{\{.*?\}\}", value))
        assert name == "class" or made_for_one, f"{name}={value}"


def test_no_code_of_the_pages_writes_markup_of_its_own() -> None:
    """Text becomes HTML in templates alone; what is put together otherwise are finished blocks."""
    for path in Path(markup.__file__).parent.rglob("*.py"):
        if path.name in ("markup.py", "drawing.py"):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        read = [call for call in calls if ast.unparse(call.func).startswith("re.")]
        patterns = {id(part) for call in read for part in ast.walk(call)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in patterns:
                assert not re.search(r"</?[a-z]+[ >/]", node.value) or "``" in node.value, f"{path}: {node.value}"
