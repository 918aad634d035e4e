"""The cells of docs/notebook.md give what stands below them, and those of the other pages run."""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
#: A cell, and its output where one follows.
CELL = re.compile(r"```python\n(.*?)```(?:\n+```text\n(.*?)```)?", re.DOTALL)


def run(cell: str, names: dict[str, Any]) -> None:
    """As a notebook does: the value of a last line that has one is shown."""
    lines = ast.parse(cell).body
    last = lines.pop() if isinstance(lines[-1], ast.Expr) else None
    exec(compile(ast.Module(lines, []), "cell", "exec"), names)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
        if value is not None:
            print(repr(value))


def test_the_notebook(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for package in ("pandas", "polars", "pyarrow"):
        pytest.importorskip(package)
    monkeypatch.chdir(ROOT)
    cells = CELL.findall((ROOT / "docs/notebook.md").read_text())
    assert len(cells) > 8
    names: dict[str, Any] = {}
    for cell, expected in cells:
        run(cell, names)
        assert capsys.readouterr().out == expected, cell


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_a_page(page: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for package in ("pandas", "polars", "pyarrow"):
        pytest.importorskip(package)
    cells = CELL.findall((ROOT / page).read_text())
    assert cells
    shutil.copytree(ROOT / "sql", tmp_path / "sql")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec("import pandas\ndf = pandas.read_parquet('sql/docs.parquet')", names)
    for cell, _ in cells:
        run(cell, names)
