#!/usr/bin/env python3
"""Compare DELETE and UPDATE of embedsql with those of DuckDB, on random tables
and conditions.

    pip install -r tests/duckdb/requirements.txt
    cargo build --release
    python tests/duckdb/dml.py --embedsql target/release/embedsql [--cases 500] [--seed 1]

For each case both run the same statement on the same table; the number of rows
that they report and the table afterwards must be equal. Statements that embedsql
refuses are counted by what it says. Where a condition has `embed`, DuckDB gets
what it comes to for those texts.
"""

import argparse
import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import duckdb

MODEL = Path(__file__).resolve().parent.parent / "fixtures" / "tiny-bert"
TEXTS = [None, "a", "b", "a longer text"]


def literal(value):
    if value is None:
        return "NULL"
    return f"'{value}'" if isinstance(value, str) else str(value)


def number(rng):
    return rng.choice([None, 0, 1, 2, 3, 4])


class Case:
    """A table, another one, and a statement in both dialects."""

    def __init__(self, seed):
        self.rng = rng = random.Random(seed)
        self.t = [(number(rng), number(rng), rng.choice(TEXTS)) for _ in range(rng.randrange(9))]
        self.u = [(number(rng), number(rng)) for _ in range(rng.randrange(5))]
        self.name = rng.choice(["t", "x"])
        self.is_delete = rng.random() < 0.5
        if self.is_delete:
            self.name = "t"
        ours, theirs = self.condition(3)
        if self.is_delete:
            start = "DELETE FROM t"
        else:
            target = "t" if self.name == "t" else "t AS x"
            id_too = f", id = {self.value()}" if rng.random() < 0.5 else ""
            start = f"UPDATE {target} SET v = {self.value()}{id_too}"
        where = rng.random() < 0.95
        self.ours = f"{start} WHERE {ours}" if where else start
        self.theirs = f"{start} WHERE {theirs}" if where else start

    def setup(self):
        yield "CREATE TABLE t (id BIGINT, v BIGINT, s VARCHAR)"
        yield "CREATE TABLE u (k BIGINT, w BIGINT)"
        for name, rows in [("t", self.t), ("u", self.u)]:
            # Each in a record batch of its own.
            for row in rows:
                yield f"INSERT INTO {name} VALUES ({', '.join(map(literal, row))})"

    def column(self):
        return f"{self.name}.{self.rng.choice(['id', 'v'])}"

    def value(self):
        column = self.column()
        return self.rng.choice(
            [
                f"CAST({literal(number(self.rng))} AS BIGINT)",
                column,
                column,
                f"{column} + 1",
                "(SELECT max(w) FROM u)",
                f"(SELECT max(w) FROM u WHERE u.k = {column})",
                f"(SELECT count(*) FROM u WHERE u.k = {column})",
                f"(SELECT sum(u.w) + count(*) FROM u WHERE u.k = {column})",
                "(SELECT min(o.v) FROM t AS o)",
            ]
        )

    def set(self):
        column = self.column()
        return self.rng.choice(
            [
                "SELECT w FROM u WHERE false",
                "SELECT 2",
                "SELECT w FROM u",
                "SELECT max(w) FROM u",
                f"SELECT w FROM u WHERE u.k = {column}",
                f"SELECT w FROM u WHERE u.k < {column}",
                f"SELECT max(w) FROM u WHERE u.k = {column}",
                f"SELECT count(*) FROM u WHERE u.k = {column} GROUP BY u.k",
                f"SELECT DISTINCT u.k FROM u JOIN t AS o ON o.id = u.w WHERE o.v = {column}",
                f"SELECT o.v FROM t AS o WHERE o.id = {column}",
                "SELECT o.id FROM t AS o",
                "SELECT k FROM u UNION ALL SELECT w FROM u",
            ]
        )

    def leaf(self):
        rng = self.rng
        negated = rng.choice(["", "NOT "])
        kind = rng.randrange(9)
        if kind == 0:
            return rng.choice(["true", "false", "CAST(NULL AS BOOLEAN)", "0 = 1", "1 = 1"])
        if kind == 1:
            return rng.choice(
                [
                    ("embed('x')[1] > 100", "false"),
                    ("embed('x')[1] < 100", "true"),
                    (f"embed({self.name}.s) IS NULL", f"{self.name}.s IS NULL"),
                    (f"cosine_similarity(embed({self.name}.s), embed('b')) > 0.9999", f"{self.name}.s = 'b'"),
                ]
            )
        if kind == 2:
            return f"{self.column()} IS {negated}NULL"
        if kind == 3:
            numbers = ", ".join(literal(number(rng)) for _ in range(rng.randrange(1, 4)))
            return f"{self.column()} {negated}IN ({numbers})"
        if kind in (4, 5):
            return f"{self.column()} {negated}IN ({self.set()})"
        if kind == 6:
            return f"{negated}EXISTS ({self.set()})"
        if kind == 7:
            return f"{self.column()} {rng.choice(['=', '<>', '<'])} {rng.choice(['ANY', 'ALL'])} ({self.set()})"
        return f"{self.value()} {rng.choice(['=', '<>', '<', '>=', 'IS DISTINCT FROM'])} {self.value()}"

    def condition(self, depth):
        kind = self.rng.randrange(8) if depth else 0
        if kind < 4:
            leaf = self.leaf()
            return leaf if isinstance(leaf, tuple) else (leaf, leaf)
        a, b = self.condition(depth - 1), self.condition(depth - 1)
        pattern = {4: "({0}) AND ({1})", 5: "({0}) OR ({1})", 6: "NOT ({0})"}.get(kind)
        if pattern is None:
            pattern = self.rng.choice(
                ["({0}) IS NOT TRUE", "({0}) IS NULL", "CASE WHEN {0} THEN {1} ELSE true END", "({0}) = ({1})"]
            )
        return pattern.format(a[0], b[0]), pattern.format(a[1], b[1])


def in_duckdb(case):
    connection = duckdb.connect()
    for sql in case.setup():
        connection.execute(sql)
    count = connection.execute(case.theirs).fetchone()[0]
    return count, Counter(connection.execute("SELECT * FROM t").fetchall())


def in_embedsql(program, case):
    """Count and table; the count is the error where the statement is refused."""
    setup = ";\n".join(case.setup())
    script = f"{setup};\n{case.ours};\n"
    command = [program, "--model", str(MODEL), "--format", "ndjson", "-q", "-c"]
    run = subprocess.run([*command, f"{script}SELECT * FROM t"], capture_output=True, text=True)
    if run.returncode:
        return run.stderr.strip(), None
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    # Before the table come the counts: one for each row that was put in, one for the statement.
    counts = [line["count"] for line in lines if "count" in line]
    rows = [(line.get("id"), line.get("v"), line.get("s")) for line in lines if "count" not in line]
    return counts[-1], Counter(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embedsql", default="target/release/embedsql")
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    refused, different, not_run = Counter(), 0, 0
    for seed in range(options.seed, options.seed + options.cases):
        case = Case(seed)
        try:
            theirs = in_duckdb(case)
        except duckdb.Error:
            not_run += 1
            continue
        ours = in_embedsql(options.embedsql, case)
        if ours[1] is None:
            refused[ours[0]] += 1
        elif ours != theirs:
            different += 1
            print(f"seed {seed}: {case.ours}\n  t = {case.t}\n  u = {case.u}\n  ours   {ours}\n  theirs {theirs}")
    for message, times in refused.most_common():
        print(f"refused {times} times: {message}")
    ran = options.cases - not_run - refused.total()
    print(f"DuckDB {duckdb.__version__}: {ran} statements compared, {different} differ, {refused.total()} refused")
    print(f"{not_run} statements that DuckDB cannot run were left out")
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
