#!/usr/bin/env python3
"""The nearest of 300 000 vectors: embedsql and DuckDB on the same Parquet files and in memory, in turns, two threads.

    python benches/search.py EMBEDSQL [FOLDER]        # needs duckdb, numpy, pyarrow; writes 1 GB into FOLDER

Medians of so many statements of one process each, in milliseconds, and GB of numbers in a second.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROWS, WIDTH, TIMES = 300_000, 384, 7


def vectors(path: Path) -> None:
    """Random ones of length 1, as pyarrow writes them."""
    numbers = np.random.default_rng(1).standard_normal((ROWS, WIDTH), dtype=np.float32)
    numbers /= np.linalg.norm(numbers, axis=1, keepdims=True)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(numbers.reshape(-1)), WIDTH)
    table = pa.table({"id": np.arange(ROWS), "v": lists})
    pq.write_table(table, path, compression="NONE", use_dictionary=False, row_group_size=20_000)


def embedsql(program: str, before: str, statement: str) -> tuple[float, list[int]]:
    """The median time of a statement, and the ids that it gives."""
    script = f"{before}\n\\timing\n" + f"{statement};\n" * TIMES
    printed = subprocess.run([program, "--threads", "2"], input=script, capture_output=True, text=True, check=True).stdout
    times = [float(time) for time in re.findall(r"Time: ([0-9.]+) ms", printed)]
    ids = [int(id) for id in re.findall(r"^ +(\d+)$", printed, re.MULTILINE)]
    return statistics.median(times[-TIMES:]), ids[-10:]


def duck(connection: duckdb.DuckDBPyConnection, statement: str) -> tuple[float, list[int]]:
    times, rows = [], []
    for _ in range(TIMES):
        start = time.perf_counter()
        rows = connection.execute(statement).fetchall()
        times.append((time.perf_counter() - start) * 1000)
    return statistics.median(times), [row[0] for row in rows]


def main() -> None:
    program, folder = sys.argv[1], Path(sys.argv[2] if len(sys.argv) > 2 else tempfile.mkdtemp())
    source = folder / "pyarrow.parquet"
    if not source.exists():
        vectors(source)
    files = {"pyarrow, plain": source}
    for name, option in (("plain, the default of COPY", "plain"), ("zstd(3)", "zstd(3)")):
        files[name] = folder / f"{option[:4]}.parquet"
        compression = "uncompressed" if option == "plain" else option
        copy = f"COPY (SELECT * FROM '{source}') TO '{files[name]}' OPTIONS ('vector_compression' '{compression}')"
        subprocess.run([program, "-c", copy], capture_output=True, check=True)
    question = "[" + ",".join(f"{x:.4f}" for x in np.random.default_rng(2).standard_normal(WIDTH)) + "]"
    connection = duckdb.connect()
    connection.execute("SET threads = 2")
    print(f"| 10 of {ROWS} x {WIDTH} | embedsql ms | GB/s | DuckDB {duckdb.__version__} ms | ratio |\n|---|---|---|---|---|")

    def row(name: str, before: str, ours: str, theirs: str) -> None:
        (here, ids), (there, other_ids) = embedsql(program, before, ours), duck(connection, theirs)
        assert ids == other_ids, (name, ids, other_ids)
        speed = ROWS * WIDTH * 4 / here / 1e6
        print(f"| {name} | {here:.0f} | {speed:.1f} | {there:.0f} | {here / there:.2f} |", flush=True)

    near = f"array_distance(v::FLOAT[{WIDTH}], {question}::FLOAT[{WIDTH}])"
    for name, path in files.items():
        ours = f"SELECT id FROM '{path}' ORDER BY v <-> '{question}' LIMIT 10"
        row(name, "", ours, f"SELECT id FROM '{path}' ORDER BY {near} LIMIT 10")
    connection.execute(f"CREATE TABLE v AS SELECT id, v::FLOAT[{WIDTH}] AS v FROM '{source}'")
    table = f"CREATE TABLE v AS SELECT * FROM '{source}';"
    for name, operator, function in (("in memory, `<->`", "<->", "array_distance"), ("in memory, `<=>`", "<=>", "array_cosine_distance")):
        theirs = f"SELECT id FROM v ORDER BY {function}(v, {question}::FLOAT[{WIDTH}]) LIMIT 10"
        row(name, table, f"SELECT id FROM v ORDER BY v {operator} '{question}' LIMIT 10", theirs)


if __name__ == "__main__":
    main()
