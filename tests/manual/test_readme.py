"""The README shows what is there."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def test_code_taken_from_a_file_is_that_files_code() -> None:
    shown = re.findall(r"<!-- file: (\S+) -->\n```python\n(.*?)```", README, re.DOTALL)
    assert shown
    for name, code in shown:
        assert (ROOT / name).read_text().endswith(code)


def test_the_two_rank_worker_is_the_examples() -> None:
    worker = re.search(r"```python\n(class AddUp.*?)```", README, re.DOTALL)
    assert worker is not None
    assert worker[1].strip() in (ROOT / "examples" / "two_ranks.py").read_text()


def test_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_make_target_of_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)", README)) <= targets
