"""docs/scaling.md: its code runs, and its figures are those of the last run."""

import re
from dataclasses import fields
from pathlib import Path

from polyrank.app.options import AppOptions
from polyrank.machines import CORES
from polyrank.scaler.policy import Scaling

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "scaling.md").read_text()
RESULTS = (ROOT / "benchmarks" / "results" / "scaling.md").read_text()


def test_the_code_of_the_page_runs() -> None:
    [code] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(code, "scaling.md", "exec", dont_inherit=True), {})


def test_the_figures_of_the_page_are_measured() -> None:
    rows = [line for line in PAGE.splitlines() if re.search(r" s \|$", line)]
    assert len(rows) == 7
    assert [row for row in rows if row not in RESULTS] == []


def test_the_page_names_every_option_that_an_app_may_set_and_its_default() -> None:
    for each in fields(Scaling):
        assert each.default == AppOptions.model_fields[each.name].default
        default = "none" if each.default is None else f"{each.default:g}"
        assert re.search(rf"^\| `{each.name}` \| {default}( s)? \|", PAGE, re.MULTILINE)


def test_the_page_names_every_size() -> None:
    sizes = ", ".join(f"`{each}`" for each in CORES)
    assert f"| {sizes} | {', '.join(str(each) for each in CORES.values())} cores" in PAGE
