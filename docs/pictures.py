#!/usr/bin/env python3
"""Draws docs/pictures/ and writes the tables of pages, from benches/record/: docs/pictures.py [--check]

A record is a table that a bench printed, of a processor and a day (benches/record.py keeps them). A page says which it wants in the
line above the table: `<!-- record: amd-epyc-zen5/engines -->` is the newest of that name. Needs Python alone.
"""

from __future__ import annotations

import csv
import re
import sys
from html import escape
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
RECORD = ROOT / "benches" / "record"
#: Of the picture and of the README's first screen.
ENGINES = "amd-epyc-zen4/engines"
#: A mark and the table below it.
MARK = re.compile(r"(<!-- record: (\S+) -->\n)((?:\|.*\n)*)")
STYLE = """
  text { font: 14px ui-sans-serif, system-ui, sans-serif; fill: #1f2328 }
  .code { font-family: ui-monospace, Menlo, Consolas, monospace; font-size: 13px }
  .small { font-size: 12px; fill: #59636e }
  .ours { fill: #0969da } .others { fill: #8c959f } .box { fill: #f6f8fa; stroke: #8c959f } .line { stroke: #8c959f; fill: none }
  .strong { font-weight: 600 } text.bright { fill: #ffffff }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc } .small { fill: #9198a1 } .ours { fill: #4493f8 } .others { fill: #656c76 }
    .box { fill: #151b23; stroke: #656c76 } .line { stroke: #656c76 }
  }
"""


def record(name: str) -> list[dict[str, str]]:
    """The rows of the newest table of a processor and a bench."""
    processor, _, bench = name.partition("/")
    found = sorted((RECORD / processor).glob(f"????-??-??-{bench}.csv"))
    if not found:
        sys.exit(f"benches/record has no {name}")
    with found[-1].open(newline="") as file:
        return list(csv.DictReader(file))


def grouped(number: str) -> str:
    """Digits in groups of three, where there are more than three."""
    return f"{int(number):,}".replace(",", " ") if re.fullmatch(r"[0-9]{4,}", number) else number


def table(name: str) -> str:
    rows = record(name)
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([grouped(cell) for cell in row.values()] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def page(path: Path, engines: list[dict[str, str]]) -> str:
    """With its tables, and the README with the speed that it boasts of, as they were recorded."""
    text = MARK.sub(lambda mark: mark[1] + table(mark[2]), path.read_text())
    if path.name == "README.md" and path.parent == ROOT:
        speed = {(row["engine"].split()[0], row["precision"]): float(row["tokens/s"]) for row in engines}
        ours = [speed["embedsql", precision] for precision in ("f32", "int8")]
        theirs = speed["sentence-transformers", "f32"]
        first, second = (f"{number / theirs:.1f} times" for number in ours)
        f32, int8, rival = (grouped(f"{number:.0f}") for number in (*ours, theirs))
        boast = f"{first} its speed in f32, {second} in int8** on the same two cores: {f32} and {int8} tokens/s against {rival} "
        text, found = re.subn(r"[0-9.]+ times its speed in f32, [^(]*", lambda _: boast, text)
        assert found == 1, "the README's boast of speed"
    return text


def picture(width: int, height: int, title: str, body: list[str], style: str = "") -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">'
    return "\n".join([head, f"<title>{escape(title)}</title>", f"<style>{STYLE}{style}</style>", *body, "</svg>", ""])


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{kind}" text-anchor="{anchor}" xml:space="preserve">{escape(words)}</text>'


def speed(rows: list[dict[str, str]]) -> str:
    rows = sorted(rows, key=lambda row: -float(row["tokens/s"]))
    most, body = max(float(row["tokens/s"]) for row in rows), []
    for number, row in enumerate(rows):
        y, length = 20 + 26 * number, 420 * float(row["tokens/s"]) / most
        kind = "ours" if row["engine"] == "embedsql" else "others"
        body.append(text(250, y + 15, f"{row['engine']}, {row['precision']}", "strong" if kind == "ours" else "", "end"))
        body.append(f'<rect x="260" y="{y}" width="{length:.0f}" height="20" rx="2" class="{kind}"/>')
        body.append(text(266 + length, y + 15, grouped(row["tokens/s"]), "small"))
    below = 40 + 26 * len(rows)
    body.append(text(260, below, "tokens/s, two threads, 600 package descriptions", "small"))
    return picture(760, below + 16, "Tokens per second of engines on one processor", body)


def box(x: float, y: float, width: float, lines: list[str]) -> list[str]:
    height = 14 + 19 * len(lines)
    drawn = [f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height}" rx="6" class="box"/>']
    for number, line in enumerate(lines):
        drawn.append(text(x + width / 2, y + 21 + 19 * number, line, "strong" if number == 0 else "small", "middle"))
    return drawn


def arrow(x: float, y: float, to_x: float, to_y: float) -> str:
    return f'<path d="M{x:g} {y:g} L{to_x:g} {to_y:g}" class="line" marker-end="url(#head)"/>'


HEAD = '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto"><path d="M0 0 L8 4 L0 8 z" class="others"/></marker></defs>'


def flow() -> str:
    steps = [
        ["rows", "of files, buckets,", "tables"],
        ["rows that are left", "WHERE, ORDER BY,", "LIMIT, joins"],
        ["texts", "each once, none whose", "vector is kept"],
        ["tokens", "model batches of", "any texts"],
        ["vectors", "on every core,", "back in their rows"],
    ]
    body = [HEAD]
    for number, lines in enumerate(steps):
        x = 10 + 172 * number
        body += box(x, 20, 146, lines)
        if number:
            body.append(arrow(x - 26, 55, x - 2, 55))
    return picture(870, 112, "From rows to vectors", body)


def plan() -> str:
    def tree(x: float, title: str, nodes: list[tuple[str, str]]) -> list[str]:
        drawn = [text(x, 24, title, "strong")]
        for number, (name, rows) in enumerate(nodes):
            y = 40 + 52 * number
            is_embed = name.startswith("embed")
            drawn.append(f'<rect x="{x}" y="{y}" width="230" height="30" rx="6" class="{"ours" if is_embed else "box"}"/>')
            drawn.append(text(x + 115, y + 20, name, "code bright" if is_embed else "code", "middle"))
            drawn.append(text(x + 240, y + 20, rows, "small"))
            if number:
                drawn.append(arrow(x + 115, y - 1, x + 115, y - 20))
        return drawn

    # As measured, see docs/planning.md.
    before = [("LIMIT 10", ""), ("ORDER BY id", ""), ("embed(body)", "16 384 texts embedded"), ("scan", "")]
    after = [("embed(body)", "10 texts embedded"), ("LIMIT 10", ""), ("ORDER BY id", ""), ("scan", "")]
    body = [HEAD, *tree(10, "as any other function", before), *tree(440, "here", after)]
    return picture(840, 252, "Where embed runs in SELECT id, embed(body) ... ORDER BY id LIMIT 10", body)


def session() -> list[tuple[list[str], list[str]]]:
    """The statements of the README's first screen, and what they print: a test runs them."""
    readme = (DOCS.parent / "README.md").read_text()
    statements = readme.split("```sql\n")[1].split("```")[0]
    printed = readme.split("```sql\n")[1].split("```text\n")[1].split("```")[0]
    statements = [lines.strip().splitlines() for lines in statements.split(";\n") if lines.strip()]
    answers, answer = [], []
    for line in printed.splitlines():
        answer.append(line)
        if line.startswith("(") and line.endswith("rows)"):
            answers, answer = [*answers, answer], []
    assert len(statements) == len(answers) == 2, (statements, answers)
    return [([line for line in lines if not line.startswith("--")], answer) for lines, answer in zip(statements, answers)]


def prompt() -> str:
    """Lines that come one after the other, again and again."""
    lines: list[tuple[str, float]] = []
    at = 0.5
    for statement, answer in session():
        for number, line in enumerate(statement):
            end = ";" if number == len(statement) - 1 else ""
            lines.append((("     ...> " if number else "embedsql> ") + line + end, at))
            at += 1.0
        at += 1.0
        for line in answer:
            lines.append((line, at))
        at += 2.0
    total = at + 3
    body, style = [f'<rect x="1" y="1" width="898" height="{len(lines) * 20 + 24}" rx="8" class="box"/>'], []
    for number, (line, start) in enumerate(lines):
        from_share = 100 * start / total
        style.append(
            f"@keyframes l{number} {{ 0%, {from_share:.1f}% {{ opacity: 0 }} {from_share + 0.1:.1f}%, 99% {{ opacity: 1 }} 100% {{ opacity: 0 }} }}"
        )
        shown = text(16, 28 + 20 * number, line, "code")
        body.append(shown.replace("<text", f'<text style="animation: l{number} {total:g}s linear infinite"', 1))
    return picture(900, len(lines) * 20 + 26, "A session at the prompt", body, "\n".join(style))


def main() -> None:
    engines = record(ENGINES)
    pages = [ROOT / "README.md", ROOT / "benches" / "README.md", *sorted(DOCS.glob("*.md"))]
    made = {path: page(path, engines) for path in pages}
    for name, drawn in (("speed", speed(engines)), ("flow", flow()), ("plan", plan()), ("prompt", prompt())):
        made[DOCS / "pictures" / f"{name}.svg"] = drawn
    old = [path for path, content in made.items() if not path.exists() or path.read_text() != content]
    if "--check" in sys.argv[1:]:
        if old:
            sys.exit("docs/pictures.py would write anew: " + ", ".join(str(path.relative_to(ROOT)) for path in old))
        return
    for path in old:
        path.write_text(made[path])
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
