"""Files that embedsql writes have the same values for embedsql, pyarrow, polars and DuckDB.

    python check.py EMBEDSQL [--rounds 20] [--seed 1]

Random schemas, and texts with every kind of line break, quote and script, are written by COPY as Parquet, Arrow, CSV and NDJSON,
into a file and into a folder with partitions, and read by each. What a reader is known not to read is in KNOWN, with its reason.
"""

import argparse
import datetime
import decimal
import json
import math
import os
import random
import subprocess
import sys
import tempfile

import duckdb
import polars
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset
import pyarrow.json
import pyarrow.parquet as pq

PIECES = [
    "", " ", "a", "word", "\n", "\r\n", "\r", "\t", ",", ";", '"', '""', "'", "\\", "\\N", "NULL", "null", "NaN", "#", "%", "0",
    "é", "ß", "日本語", "עברית", "العربية", "हिन्दी", "👩‍👩‍👧", "\u200b", "\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1f", "\x7f", "\ufeff",
    "\ufffd", "e\u0301", "𝒳", "<b>", "{}", "[1]", "=1+1", "-", "\x01",
]
TYPES = {
    "bigint": pa.int64(), "int": pa.int32(), "double": pa.float64(), "float": pa.float32(), "bool": pa.bool_(),
    "text": pa.string(), "large": pa.large_string(), "date": pa.date32(), "decimal": pa.decimal128(12, 3),
    "vector": pa.list_(pa.float32(), 3), "list": pa.list_(pa.string()), "struct": pa.struct([("x", pa.int64()), ("y", pa.string())]),
}
FLAT = ["bigint", "int", "double", "bool", "text", "large", "date", "decimal"]


def text(random):
    return "".join(random.choice(PIECES) for _ in range(random.choice([0, 1, 1, 2, 3, 8])))


def value(random, kind, nulls=0.2):
    if random.random() < nulls:
        return None
    if kind in ("bigint", "int"):
        return random.choice([0, 1, -1, random.getrandbits(30), -random.getrandbits(20)])
    if kind in ("double", "float"):
        return random.choice([0.0, -1.5, 0.25, float(random.getrandbits(20)) / 64])
    if kind == "bool":
        return random.random() < 0.5
    if kind == "date":
        return datetime.date(1970, 1, 1) + datetime.timedelta(days=random.randint(-20000, 20000))
    if kind == "decimal":
        return decimal.Decimal(random.randint(-10**8, 10**8)).scaleb(-3)
    if kind == "vector":
        return [value(random, "float", 0) for _ in range(3)]
    if kind == "list":
        return [text(random) for _ in range(random.randint(0, 3))]
    if kind == "struct":
        return {"x": value(random, "bigint"), "y": value(random, "text")}
    return text(random)


def table(random, kinds):
    rows = random.choice([1, 3, 50, 400])
    columns = {"id": pa.array(range(rows), pa.int64())}
    for number, kind in enumerate(kinds):
        columns[f"c{number}"] = pa.array([value(random, kind) for _ in range(rows)], TYPES[kind])
    return pa.table(columns)


def plain(value):
    """What is the same in all readers."""
    if isinstance(value, float):
        return "nan" if math.isnan(value) else round(value, 9)
    if isinstance(value, decimal.Decimal):
        return str(value.quantize(decimal.Decimal("0.001")))
    if isinstance(value, (datetime.date, datetime.datetime)):
        return value.isoformat()[:10]
    if isinstance(value, (list, tuple)) or type(value).__name__ in ("Series", "ndarray"):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


def rows(names, records):
    found = [{name: plain(record[name]) for name in names} for record in records]
    return sorted(found, key=lambda row: row["id"])


class Check:
    def __init__(self, embedsql, folder):
        self.embedsql, self.folder, self.compared = embedsql, folder, 0

    def run(self, sql):
        done = subprocess.run([self.embedsql, "-q", "-c", sql], cwd=self.folder, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{sql}: {done.stderr}")

    def by_us(self, target, declared=None):
        out = os.path.join(self.folder, "back.parquet")
        source = "back" if declared else f"'{target}'"
        self.run(f"{declared or ''} COPY (SELECT * FROM {source}) TO 'back.parquet'")
        return pq.read_table(out).to_pylist()

    def same(self, what, reader, names, expected, records):
        found = rows(names, records)
        self.compared += 1
        if found != expected:
            for one, other in zip(expected, found):
                if one != other:
                    sys.exit(f"{what}, {reader}:\nwritten {one!r}\nread    {other!r}")
            sys.exit(f"{what}, {reader}: {len(expected)} rows written, {len(found)} read")

    def files(self, random):
        names = random.sample(sorted(TYPES), random.randint(1, 6))
        source = table(random, names)
        pq.write_table(source, os.path.join(self.folder, "source.parquet"))
        expected = rows(source.column_names, source.to_pylist())
        for ending in ("parquet", "arrow", "ndjson"):
            target = f"t.{ending}"
            # A field that is NULL is left out, and a reader cannot know its struct.
            if ending == "ndjson" and any(kind in ("decimal", "struct") for kind in names):
                continue
            self.run(f"COPY (SELECT * FROM 'source.parquet') TO '{target}'")
            path = os.path.join(self.folder, target)
            for reader, records in readers(path, ending, source.schema):
                self.same(f"{ending} of {names}", reader, source.column_names, expected, records)
            if ending != "ndjson":
                self.same(f"{ending} of {names}", "embedsql", source.column_names, expected, self.by_us(target))

    def csv(self, random):
        names = ["text"] + random.sample(FLAT, random.randint(1, 4))
        source = table(random, names)
        pq.write_table(source, os.path.join(self.folder, "source.parquet"))
        expected = rows(source.column_names, source.to_pylist())
        self.run("COPY (SELECT * FROM 'source.parquet') TO 't.csv'")
        for reader, records in csv_readers(os.path.join(self.folder, "t.csv"), source.schema):
            self.same(f"csv of {names}", reader, source.column_names, expected, records)
        # Texts may look like numbers.
        columns = ", ".join(f'"{field.name}" {sql_type(field.type)}' for field in source.schema)
        declared = f"CREATE EXTERNAL TABLE back ({columns}) STORED AS CSV LOCATION 't.csv';"
        self.same(f"csv of {names}", "embedsql", source.column_names, expected, self.by_us("t.csv", declared))

    def partitions(self, random):
        source = table(random, ["text", "bigint"])
        # A text that is a number, or the name of NULL, is not told apart in the name of a folder; a folder has no control characters.
        topics = [None, "", "a", "a/b", "50%", "ü x", "a=b", ".."]
        source = source.append_column("topic", pa.array([random.choice(topics) for _ in range(len(source))], pa.string()))
        pq.write_table(source, os.path.join(self.folder, "source.parquet"))
        expected = rows(source.column_names, source.to_pylist())
        self.run("COPY (SELECT * FROM 'source.parquet') TO 'parts/' STORED AS PARQUET PARTITIONED BY (topic) "
                 "OPTIONS ('mode' 'overwrite')")
        path = os.path.join(self.folder, "parts")
        hive = pyarrow.dataset.partitioning(pa.schema([("topic", pa.string())]), flavor="hive")
        found = pyarrow.dataset.dataset(path, partitioning=hive, format="parquet").to_table().to_pylist()
        self.same("partitions", "pyarrow", source.column_names, expected, found)


def readers(path, ending, schema):
    if ending == "parquet":
        yield "pyarrow", pq.read_table(path).to_pylist()
        yield "polars", polars.read_parquet(path).to_dicts()
        yield "DuckDB", duckdb.sql(f"SELECT * FROM '{path}'").to_arrow_table().to_pylist()
    elif ending == "arrow":
        yield "pyarrow", pa.ipc.open_file(path).read_all().to_pylist()
        yield "polars", polars.read_ipc(path).to_dicts()
    else:
        # Neither pyarrow's reader nor polars' takes a vector of a fixed length; a date is a text in JSON.
        with open(path, encoding="utf-8", newline="\n") as lines:
            records = [json.loads(line) for line in lines]
        yield "json", [{f.name: narrow(record.get(f.name), f.type) for f in schema} for record in records]


def narrow(value, kind):
    """A number of JSON as the type has it."""
    if isinstance(value, list):
        return [narrow(item, kind.value_type) for item in value]
    return pa.scalar(value, kind).as_py() if value is not None and kind == pa.float32() else value


def csv_readers(path, schema):
    types = {field.name: pa.string() if field.type == pa.large_string() else field.type for field in schema}
    convert = pyarrow.csv.ConvertOptions(
        column_types=types, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False)
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
    read = pyarrow.csv.ReadOptions(block_size=1 << 24)
    yield "pyarrow", pyarrow.csv.read_csv(path, read, parse, convert).to_pylist()
    columns = {name: sql_type(kind) for name, kind in types.items()}
    yield "DuckDB", duckdb.sql(
        f"SELECT * FROM read_csv('{path}', header = true, delim = ',', quote = '\"', escape = '\"', columns = {columns}, "
        "auto_detect = false, allow_quoted_nulls = false, strict_mode = false, max_line_size = 10000000, parallel = false)"
    ).to_arrow_table().to_pylist()


def sql_type(kind):
    return {"int64": "BIGINT", "int32": "INTEGER", "double": "DOUBLE", "bool": "BOOLEAN", "string": "VARCHAR", "large_string": "VARCHAR",
            "date32[day]": "DATE", "decimal128(12, 3)": "DECIMAL(12, 3)"}[str(kind)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("embedsql")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        check = Check(os.path.abspath(arguments.embedsql), folder)
        for round in range(arguments.rounds):
            seed = random.Random(arguments.seed * 1000 + round)
            check.files(seed)
            check.csv(seed)
            check.partitions(seed)
        versions = f"pyarrow {pa.__version__}, polars {polars.__version__}, DuckDB {duckdb.__version__}"
        print(f"{check.compared} files were the same for {versions}")


main()
