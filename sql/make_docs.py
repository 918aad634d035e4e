#!/usr/bin/env python3
# Writes sql/docs.parquet from sql/docs.jsonl (one article per line, written for this project).
#
#   python -m venv venv && venv/bin/pip install pyarrow==26.0.1
#   venv/bin/python sql/make_docs.py
#
# The same input and the same pyarrow version give the same bytes. Edit docs.jsonl, never the Parquet file.
import json
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq

FOLDER = pathlib.Path(__file__).resolve().parent

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("body", pa.string()),
        pa.field("lang", pa.string(), nullable=False),
        pa.field("topic", pa.string(), nullable=False),
        pa.field("year", pa.int32(), nullable=False),
    ]
)


def main():
    rows = []
    with open(FOLDER / "docs.jsonl", encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            row = json.loads(line)
            if list(row) != SCHEMA.names:
                raise SystemExit(f"docs.jsonl:{number}: the fields are {list(row)}, not {SCHEMA.names}")
            if row["id"] != number:
                raise SystemExit(f"docs.jsonl:{number}: the id is {row['id']}; ids count the lines")
            rows.append(row)
    pq.write_table(
        pa.Table.from_pylist(rows, schema=SCHEMA),
        FOLDER / "docs.parquet",
        compression="snappy",
        row_group_size=len(rows),
        version="2.6",
        data_page_version="1.0",
    )
    print(f"docs.parquet: {len(rows)} rows")


if __name__ == "__main__":
    main()
