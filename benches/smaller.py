"""Smaller vectors: bytes, what they find, and how fast they are looked through.

The task is that of `recall.py`: the synopsis of a package (`short.parquet`) shall find the package's description (`docs.parquet`, same
id). The vectors are f32 of the default model; every other kind is made of them in SQL, with ranges from the descriptions. recall@10 is
the share of queries whose description is among the nearest ten. Vectors of halves of the places are slices, normalised anew: the default
model is not trained for them.

    python benches/smaller.py EMBEDSQL short.parquet docs.parquet [--copies 15]

needs numpy and pyarrow. The time is that of `ORDER BY distance LIMIT 10` over the descriptions, so many copies of them, in a table in
memory, on two threads: the median of seven.
"""

import argparse
import re
import statistics
import subprocess
import tempfile

import numpy as np
import pyarrow.parquet as pq

from recall import TEXTS, ranks

# Name: how a vector is made, and the operator that compares two of them.
DIMS = {"384": "v", "192": "vector_normalize(vector_slice(v, 1, 192))"}
KINDS = {
    "f32": ("{v}", "<=>"),
    "f16": ("arrow_cast({v}, 'FixedSizeList({dim}, Float16)')", "<=>"),
    "int8": ("quantize_int8({v}, (SELECT int8_ranges({v}) FROM answers))", "<->"),
    "binary": ("quantize_binary({v})", "<~>"),
}
RESCORED = 100


def run(program, sql):
    done = subprocess.run([program, "--threads", "2", "-q", "-c", sql], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def rows(path):
    table = pq.read_table(path).sort_by("id")
    return table["v"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)


def scores(kind, queries, answers):
    """The larger, the nearer."""
    if kind == "binary":
        bits = lambda rows: np.unpackbits(rows, axis=1).astype(np.float32) * 2 - 1
        return bits(queries), bits(answers)
    if kind == "int8":
        # -|a - b|^2 is a product of longer vectors: 2 a.b - |b|^2, and |a|^2 is the same for every answer.
        queries, answers = queries.astype(np.float32), answers.astype(np.float32)
        ones, squares = np.ones((len(queries), 1), np.float32), -(answers**2).sum(1, keepdims=True)
        return np.hstack((2 * queries, ones)), np.hstack((answers, squares))
    unit = lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit(queries.astype(np.float32)), unit(answers.astype(np.float32))


def rescored(near, exact, count):
    """Ranks by exact scores among the nearest `count` of each query; those that are not among them are last."""
    (a, b), (x, y) = near, exact
    found = []
    for start in range(0, len(a), 1000):
        rough, fine = a[start : start + 1000] @ b.T, x[start : start + 1000] @ y.T
        own = np.arange(len(rough)), start + np.arange(len(rough))
        least = -np.partition(-rough, count - 1, axis=1)[:, count - 1 : count]
        among = rough >= least
        nearer = ((fine > fine[own][:, None] + 1e-6) & among).sum(1)
        found.append(np.where(among[own], nearer, len(b)))
    return np.concatenate(found)


def seconds(program, source, operator, copies):
    """Of the nearest ten in a table in memory."""
    setup = "CREATE TABLE t AS " + " UNION ALL ".join([f"SELECT id, v FROM '{source}'"] * copies)
    query = f"SELECT id FROM t ORDER BY v {operator} (SELECT v FROM t LIMIT 1) LIMIT 10"
    script = "\\timing on\n" + setup + ";\n" + f"{query};\n" * 8
    times = re.findall(r"Time: ([\d.]+) ms", run(program, script))
    return statistics.median(float(time) for time in times[2:]) / 1000


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("short")
    parser.add_argument("docs")
    parser.add_argument("--copies", type=int, default=15)
    options = parser.parse_args()
    program = options.program
    print("| vector | bytes | recall@10 | rescored | ms |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, texts in TEXTS.items():
            texts = texts.format(short=options.short, docs=options.docs)
            run(program, f"COPY (SELECT id, embed(body) AS v FROM ({texts})) TO '{folder}/{name}.parquet'")
        exact = scores("f32", rows(f"{folder}/queries.parquet"), rows(f"{folder}/answers.parquet"))
        for dim, places in DIMS.items():
            for kind, (made, operator) in KINDS.items():
                made = made.format(v=places, dim=dim)
                for name in TEXTS:
                    source = f"WITH answers AS (SELECT v FROM '{folder}/answers.parquet') SELECT id, {made} AS v"
                    run(program, f"COPY ({source} FROM '{folder}/{name}.parquet') TO '{folder}/{name}.{kind}.parquet'")
                queries, answers = (rows(f"{folder}/{name}.{kind}.parquet") for name in TEXTS)
                near = scores(kind, queries, answers)
                recall, second = ((found < 10).mean() for found in (ranks(*near), rescored(near, exact, RESCORED)))
                size = answers.dtype.itemsize * answers.shape[1]
                time = seconds(program, f"{folder}/answers.{kind}.parquet", operator, options.copies)
                print(f"| {kind}, {dim} | {size} | {recall:.2%} | {second:.2%} | {1000 * time:.0f} |", flush=True)


if __name__ == "__main__":
    main()
