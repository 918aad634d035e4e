"""Retrieval by precision, as users feel it: does a package's synopsis find the package's own description?

Query: the synopsis of a package (`short.parquet`). Answer: its description (`docs.parquet`, same id) without the first
line, which repeats the synopsis, among those of all packages. recall@1 and recall@10 are the shares of queries whose own
description is the nearest one, or among the nearest ten, by cosine; equal texts count as equally near.

    python benches/recall.py EMBEDSQL short.parquet docs.parquet

needs numpy and pyarrow. Left out: approximate indexes; every query is compared with every description.
"""

import subprocess
import sys
import tempfile

import numpy as np
import pyarrow.parquet as pq

TEXTS = {
    "queries": "SELECT id, body FROM '{short}'",
    "answers": "SELECT id, substr(body, strpos(body, chr(10)) + 1) AS body FROM '{docs}'",
}


def vectors(program, precision, texts, out):
    """Vectors of a query's texts, `[rows, dim]`, in the order of their ids."""
    sql = f"COPY (SELECT id, embed(body) AS vector FROM ({texts}) ORDER BY id) TO '{out}'"
    subprocess.run([program, "--precision", precision, "-c", sql], check=True, stdout=subprocess.DEVNULL)
    table = pq.read_table(out)
    rows = table["vector"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
    return rows[np.argsort(table["id"].to_numpy())]


def ranks(queries, answers):
    """For each query, how many descriptions are nearer than its own."""
    nearer = []
    for start in range(0, len(queries), 1000):
        scores = queries[start : start + 1000] @ answers.T
        own = scores[np.arange(len(scores)), start + np.arange(len(scores))]
        nearer.append((scores > own[:, None] + 1e-6).sum(1))
    return np.concatenate(nearer)


def main(program, short, docs):
    print("| precision | recall@1 | recall@10 |\n|---|---|---|")
    for precision in ("f32", "bf16", "int8"):
        with tempfile.TemporaryDirectory() as folder:
            queries, answers = (
                vectors(program, precision, sql.format(short=short, docs=docs), f"{folder}/{name}.parquet")
                for name, sql in TEXTS.items()
            )
        nearer = ranks(queries, answers)
        print(f"| {precision} | {100 * (nearer < 1).mean():.2f} % | {100 * (nearer < 10).mean():.2f} % |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
