"""The program, which comes with the package."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest


@pytest.mark.parametrize("line", [["embedsql"], [sys.executable, "-m", "datafusion_embed"]])
def test_embedsql_is_there(line: list[str]) -> None:
    if line == ["embedsql"]:
        found = shutil.which("embedsql", path=str(__import__("pathlib").Path(sys.executable).parent))
        assert found, "the console script"
        line = [found]
    ran = subprocess.run([*line, "--format", "csv", "-c", "SELECT array_length(embed('a')) AS n"], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "n\n384\n", "")
    wrong = subprocess.run([*line, "-c", "SELECT nosuch"], capture_output=True, text=True)
    assert wrong.returncode != 0 and "nosuch" in wrong.stderr
