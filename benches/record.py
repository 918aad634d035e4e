#!/usr/bin/env python3
"""Runs a bench and keeps what it prints: python benches/record.py NAME COMMAND ...

    python benches/record.py sql cargo bench --bench sql -- --precision f32,bf16,int8
    python benches/record.py search python benches/search.py target/release/embedsql

The Markdown table among it becomes benches/record/<processor>/<date>-NAME.csv, and everything, below the command, the file of the same
name that ends in .txt. Tables of pages are made of the newest of a name: `python docs/pictures.py` writes them anew. Needs Python alone.
"""

from __future__ import annotations

import csv
import datetime
import os
import platform
import re
import shlex
import subprocess
import sys
from pathlib import Path

RECORD = Path(__file__).resolve().parent / "record"


def processor() -> str:
    """What a folder is called: `amd-epyc-zen4`. Machines of the clouds often tell no more of an AMD than its family."""
    name, family, model = platform.processor() or platform.machine(), 0, 0
    if Path("/proc/cpuinfo").exists():
        info: dict[str, str] = {}
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            info.setdefault(key.strip(), value.strip())
        name = info.get("model name", name)
        family, model = int(info.get("cpu family", 0)), int(info.get("model", 0))
    elif sys.platform == "darwin":
        name = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=True).stdout
    if "AMD" in name and family in (0x17, 0x19, 0x1A):
        is_fourth = family == 0x19 and (0x10 <= model < 0x20 or model >= 0x60)
        name += f" zen{ {0x17: 2, 0x19: 3, 0x1A: 5}[family] + is_fourth}"
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\(.*?\)|CPU|@.*", "", name).lower()).strip("-")


def table(printed: str) -> list[list[str]]:
    """The rows of the Markdown tables, which are one: the first has the names of the columns."""
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in printed.splitlines() if line.startswith("|")]
    rows = [row for row in rows if not all(set(cell) <= set("-: |") for cell in row)]
    head = next(iter(rows), [])
    # A bench that runs once for each corpus prints its head each time.
    rows = rows[:1] + [row for row in rows[1:] if row != head]
    if len(rows) < 2 or any(len(row) != len(head) for row in rows):
        sys.exit("record: no table was printed, or several that have not the same columns")
    return rows


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    name, command = sys.argv[1], sys.argv[2:]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    printed = ""
    for line in started.stdout or ():
        print(line, end="", flush=True)
        printed += line
    if started.wait() != 0:
        sys.exit(started.returncode)
    rows = table(printed)
    folder = RECORD / processor()
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / f"{datetime.date.today()}-{name}.csv"
    with kept.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    # Where a program lies is the machine's own affair.
    command = [os.path.basename(word) if word.startswith("/") else word for word in command]
    kept.with_suffix(".txt").write_text(f"$ {shlex.join(command)}\n\n{printed}")
    print(kept.relative_to(RECORD.parent.parent), file=sys.stderr)


if __name__ == "__main__":
    main()
