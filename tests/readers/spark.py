"""Vectors that embedsql writes have the same values for Spark.

    pip install pyspark && python spark.py EMBEDSQL

Vectors, all of them or all but some that are NULL, are written by COPY as lists of each kind and with each option of vectors, and read
by Spark, which needs Java 17. What Spark is known not to read is in KNOWN, with its reason.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile

import pyspark
from pyspark.sql import SparkSession

TYPES = {"embed's own": None, "FLOAT[]": "List(Float32)", "LargeList": "LargeList(Float32)"}
OPTIONS = {
    "": "",
    "byte_stream_split": "'vector_encoding' 'byte_stream_split'",
    "zstd(3)": "'vector_compression' 'zstd(3)'",
    "float16": "'vector_storage' 'float16'",
    "float16 in byte_stream_split": "'vector_encoding' 'byte_stream_split', 'vector_storage' 'float16'",
}
# Spark 4.3 has no such type: "Illegal Parquet type: FIXED_LEN_BYTE_ARRAY (FLOAT16)".
KNOWN = {"float16": "FLOAT16", "float16 in byte_stream_split": "FLOAT16"}


class Check:
    def __init__(self, embedsql, spark, folder):
        self.embedsql, self.spark, self.folder, self.different = embedsql, spark, folder, []

    def run(self, sql):
        command = [self.embedsql, "-q", "--format", "ndjson", "-c", sql]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{sql}: {done.stderr}")
        return [json.loads(line) for line in done.stdout.splitlines()]

    def by_spark(self, path):
        rows = self.spark.read.parquet(path).orderBy("id").collect()
        return [(row.id, row.vector and list(row.vector)) for row in rows]

    def file(self, kind, nulls, name):
        """Writes a file; gives what Spark makes of it, in a word."""
        body = "CASE WHEN value % 3 <> 0 THEN concat('text ', value) END" if nulls else "concat('text ', value)"
        vector = f"embed({body})" if TYPES[kind] is None else f"arrow_cast(embed({body}), '{TYPES[kind]}')"
        path = os.path.join(self.folder, "vectors.parquet")
        options = f" OPTIONS ({OPTIONS[name]})" if OPTIONS[name] else ""
        self.run(f"COPY (SELECT value AS id, {vector} AS vector FROM generate_series(1, 30)) TO '{path}'{options}")
        written = [(row["id"], row.get("vector")) for row in self.run(f"SELECT * FROM '{path}' ORDER BY id")]
        try:
            read = self.by_spark(path)
        except Exception as error:
            known = KNOWN.get(name)
            if known and known in str(error):
                return f"no: {known}"
            self.different.append(f"{kind}, {name}: {error}")
            return "no"
        if not all(same(one, other) for one, other in itertools.zip_longest(written, read)):
            self.different.append(f"{kind}, {name}: other values")
            return "other values"
        return "yes, but it is in KNOWN" if name in KNOWN else "yes"


def same(one, other):
    """Whether two rows are the same; digits that give back a float32 are not quite it as a float64."""
    if one is None or other is None or one[0] != other[0] or (one[1] is None) != (other[1] is None):
        return False
    if one[1] is None:
        return True
    return len(one[1]) == len(other[1]) and all(abs(x - y) <= 1e-7 * abs(x) for x, y in zip(one[1], other[1]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("embedsql")
    arguments = parser.parse_args()
    builder = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
    spark = builder.config("spark.ui.showConsoleProgress", "false").getOrCreate()
    spark.sparkContext.setLogLevel("OFF")
    with tempfile.TemporaryDirectory() as folder:
        check = Check(os.path.abspath(arguments.embedsql), spark, folder)
        for kind, nulls, name in itertools.product(TYPES, [False, True], OPTIONS):
            what = f"{kind}{', some NULL' if nulls else ''}{', ' + name if name else ''}"
            print(f"Spark {pyspark.__version__}: {what}: {check.file(kind, nulls, name)}", flush=True)
    if check.different:
        sys.exit("\n".join(check.different))


main()
