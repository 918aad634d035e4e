"""Functions of vectors against numpy and DuckDB, on random values.

    python tests/readers/vectors.py EMBEDSQL

needs duckdb, numpy and pyarrow. The vectors are rows of a Parquet file, some of them NULL or zero; `a` and `b` have one length, fixed
or not, in Float32, Float64 and Float16. Cosines, shares of bits and ranges are Float32 whatever the vectors are.
"""

import subprocess
import sys
import tempfile

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROWS, DIM, GROUPS = 500, 37, 5
TYPES = {"Float32": np.float32, "Float64": np.float64, "Float16": np.float16}


def cosine(a, b):
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    return a @ b / lengths if lengths else 0.0


def packed(a):
    return np.packbits(a > 0)


def jaccard(a, b):
    either = (packed(a) | packed(b)).tobytes()
    both = (packed(a) & packed(b)).tobytes()
    ones = lambda data: sum(byte.bit_count() for byte in data)
    return 1 - ones(both) / ones(either) if ones(both) else 1.0


# What each is in numpy, in f64.
NUMPY = {
    "vector_add(a, b)": lambda a, b: a + b,
    "vector_sub(a, b)": lambda a, b: a - b,
    "vector_mul(a, b)": lambda a, b: a * b,
    "vector_scale(a, 2.5)": lambda a: a * 2.5,
    "vector_normalize(a)": lambda a: a / (np.linalg.norm(a) or 1),
    f"vector_slice(a, 3, {DIM - 5})": lambda a: a[2 : DIM - 3],
    "vector_norm(a)": lambda a: np.linalg.norm(a),
    "l1_distance(a, b)": lambda a, b: np.abs(a - b).sum(),
    "a <-> b": lambda a, b: np.linalg.norm(a - b),
    "a <#> b": lambda a, b: -(a @ b),
    "a <=> b": lambda a, b: 1 - cosine(a, b),
    "quantize_binary(a)": lambda a: packed(a),
    "quantize_binary(a) <~> quantize_binary(b)": lambda a, b: ((a > 0) != (b > 0)).sum(),
    "quantize_binary(a) <%> quantize_binary(b)": jaccard,
}
# What each is in DuckDB, whose zero vectors have no cosine.
DUCKDB = {
    "l2_distance(a, b)": "array_distance(a, b)",
    "negative_inner_product(a, b)": "-array_inner_product(a, b)",
    "CASE WHEN vector_norm(a) * vector_norm(b) > 0 THEN cosine_similarity(a, b) END": "CASE WHEN array_inner_product(a, a) * "
    "array_inner_product(b, b) > 0 THEN array_cosine_similarity(a, b) END",
}
AGGREGATES = {
    "vector_sum(a)": lambda rows: rows.sum(axis=0),
    "vector_avg(a)": lambda rows: rows.mean(axis=0),
    "vector_sum(DISTINCT a)": lambda rows: np.unique(rows, axis=0).sum(axis=0),
    "int8_ranges(a)": lambda rows: np.vstack((rows.min(axis=0), rows.max(axis=0))).ravel(),
}


def table(rng, number):
    """Columns `id`, `g`, `a`, `b`, and the two as rows of numbers in f64, `None` for NULL."""
    columns, known = {"id": pa.array(range(ROWS)), "g": pa.array([i % GROUPS for i in range(ROWS)])}, []
    for name in ("a", "b"):
        rows = rng.normal(size=(ROWS, DIM)).astype(number)
        rows[7] = 0
        rows[11] = rows[16]
        rows = [None if rng.random() < 0.1 else row for row in rows]
        columns[name] = pa.array(rows, pa.list_(pa.from_numpy_dtype(number), DIM))
        known.append([None if row is None else row.astype(np.float64) for row in rows])
    return pa.table(columns), known


def run(program, sql, folder):
    out = f"{folder}/out.parquet"
    subprocess.run([program, "-q", "-c", f"COPY ({sql}) TO '{out}'"], check=True, stdout=subprocess.DEVNULL)
    return pq.read_table(out)


def check(what, given, expected, tolerance):
    """Compares one value of a row, a number or a vector."""
    if expected is None or given is None:
        assert expected is None and given is None, f"{what}: {given}, not {expected}"
        return
    given, expected = np.ravel(np.array(given, dtype=np.float64)), np.ravel(np.asarray(expected, dtype=np.float64))
    size = max(1.0, np.abs(expected).max())
    assert given.shape == expected.shape and np.abs(given - expected).max() <= tolerance * size, f"{what}: {given}, not {expected}"


def read_back(program, rng, folder):
    """Files that pyarrow writes in other ways than we do: row groups without rows, dictionaries, pages of a few rows."""
    for number, options in enumerate(
        {"use_dictionary": dictionary, "data_page_version": version, "data_page_size": page}
        for dictionary in (False, True)
        for version in ("1.0", "2.0")
        for page in (100, 1 << 20)
    ):
        vectors = [None if row % 7 == 3 else rng.integers(0, 9, 5).astype(np.float32).tolist() for row in range(60)]
        rows = pa.table({"id": range(60), "v": pa.array(vectors, pa.list_(pa.float32(), 5))})
        path = f"{folder}/read{number}.parquet"
        with pq.ParquetWriter(path, rows.schema, **options) as writer:
            for part in (rows.slice(0, 0), rows.slice(0, 20), rows.slice(20, 0), rows.slice(20), rows.slice(0, 0)):
                writer.write_table(part)
        result = run(program, f"SELECT id, v FROM '{path}' ORDER BY -id", folder)
        assert result["v"].to_pylist() == vectors[::-1], (path, options)


def main(program):
    rng, checked = np.random.default_rng(5), 0
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/vectors.parquet"
        for name, number in TYPES.items():
            rows, (a, b) = table(rng, number)
            pq.write_table(rows, path, row_group_size=130)
            # A sum of products of both signs is small beside what it is rounded by.
            tolerance = {"Float16": 4e-3, "Float32": 2e-5, "Float64": 1e-12}[name]
            is_single = lambda sql: any(name in sql for name in ("<=>", "<%>", "cosine", "ranges"))
            of = lambda sql: max(tolerance, 2e-5) if is_single(sql) else tolerance
            for kind in ("", "List", "LargeList"):
                source = "'" + path + "'"
                if kind:
                    cast = lambda column: f"arrow_cast({column}, '{kind}({name})') AS {column}"
                    source = f"(SELECT id, g, {cast('a')}, {cast('b')} FROM {source})"
                columns = ", ".join(f"{sql} AS c{i}" for i, sql in enumerate(NUMPY))
                result = run(program, f"SELECT {columns} FROM {source} ORDER BY id", folder)
                for i, (sql, formula) in enumerate(NUMPY.items()):
                    for row, given in enumerate(result[f"c{i}"].to_pylist()):
                        vectors = [a[row], b[row]][: formula.__code__.co_argcount]
                        expected = None if any(vector is None for vector in vectors) else formula(*vectors)
                        check(f"{sql} of {kind or 'FixedSizeList'}({name}), row {row}", given, expected, of(sql))
                        checked += 1
                columns = ", ".join(f"{sql} AS c{i}" for i, sql in enumerate(AGGREGATES))
                result = run(program, f"SELECT {columns} FROM {source} GROUP BY g ORDER BY g", folder)
                for i, (sql, formula) in enumerate(AGGREGATES.items()):
                    for group, given in enumerate(result[f"c{i}"].to_pylist()):
                        members = np.array([row for row in a[group::GROUPS] if row is not None])
                        check(f"{sql} of {kind}({name}), group {group}", given, formula(members), of(sql))
                        checked += 1
            if name == "Float16":
                continue
            columns = ", ".join(f"{sql} AS c{i}" for i, sql in enumerate(DUCKDB))
            result = run(program, f"SELECT {columns} FROM '{path}' ORDER BY id", folder)
            sql_type = {"Float32": "FLOAT", "Float64": "DOUBLE"}[name]
            source = f"(SELECT id, a::{sql_type}[{DIM}] AS a, b::{sql_type}[{DIM}] AS b FROM '{path}')"
            others = duckdb.sql(f"SELECT {', '.join(DUCKDB.values())} FROM {source} ORDER BY id").fetchall()
            for i, sql in enumerate(DUCKDB):
                for row, given in enumerate(result[f"c{i}"].to_pylist()):
                    check(f"{sql} of {name} and DuckDB, row {row}", given, others[row][i], of(sql))
                    checked += 1
        read_back(program, rng, folder)
    print(f"{checked} results are those of numpy and DuckDB")


if __name__ == "__main__":
    main(*sys.argv[1:])
