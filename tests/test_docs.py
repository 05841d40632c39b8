"""The docs name what there is: files, names of the code, and the code of the methods that are explained."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "attar"
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
#: Pages about the code; others also name functions of other libraries.
ABOUT_CODE = ("adding-a-method.md", "contracts.md", "house.md")
ELSEWHERE = {"__attar__/attar-export.json", "__attar__/classes.json"}  # inside an exported archive
LINES = {line.strip() for path in SOURCE.rglob("*.py") for line in path.read_text(encoding="utf-8").splitlines()}
TESTED = {line.strip() for line in (ROOT / "tests" / "test_compositions.py").read_text(encoding="utf-8").splitlines()}


def words(folder: Path) -> set[str]:
    return {word for path in folder.rglob("*.py") for word in re.findall(r"\w+", path.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_files_that_a_page_names_are_there(page: Path) -> None:
    """Paths are below the repository or below the package."""
    named = re.findall(r"`((?:[\w.-]+/)+(?:[\w.-]+\.(?:py|json|bib|md|toml|txt))?)`", page.read_text(encoding="utf-8"))
    absent = {path for path in named if not ((ROOT / path).exists() or (SOURCE / path).exists())}
    assert absent <= ELSEWHERE


@pytest.mark.parametrize("page", ABOUT_CODE)
def test_names_of_the_code_that_a_page_has_are_in_the_code(page: str) -> None:
    text = re.sub(r"```.*?```", "", (ROOT / "docs" / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    named = {word for quoted in re.findall(r"`([^`\n]+)`", text) for word in re.findall(r"\w+", quoted)}
    names = {word for word in named if "_" in word.strip("_") or re.match("[A-Z][a-z]+[A-Z]", word)}
    files = {path.stem for path in (ROOT / "tests").glob("*.py")}
    assert names - words(SOURCE) - words(ROOT / "tests") - files == set()


def test_the_methods_that_are_explained_are_as_they_are_shown() -> None:
    """Line by line; `...` stands for what is left out."""
    page = (ROOT / "docs" / "adding-a-method.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    shown = [line.strip() for block in blocks for line in block.splitlines()]
    assert [line for line in shown if line and "..." not in line and line not in LINES | TESTED] == []
    assert len(shown) > 100
