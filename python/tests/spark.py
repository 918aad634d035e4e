"""Vectors in Spark are those of the class: too heavy for the tests, as it needs Java 17.

    pip install pyspark pyarrow pandas
    python python/tests/spark.py
"""

from __future__ import annotations

import os
import sys

import numpy as np
import pyspark
from conftest import TINY
from pyspark.sql import SparkSession

from datafusion_embed import SentenceTransformer
from datafusion_embed.spark import embedding


def main() -> None:
    os.environ["PYSPARK_PYTHON"] = sys.executable  # workers have the same packages
    spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    texts = [f"text {i % 700}" if i % 7 else None for i in range(1000)]
    df = spark.createDataFrame(list(enumerate(texts)), "id long, body string").repartition(4)
    found = df.mapInArrow(embedding("body", TINY), "id long, body string, embedding array<float>").orderBy("id").collect()
    expected = SentenceTransformer(TINY).encode([text or "" for text in texts])
    assert len(found) == len(texts)
    for row, text, vector in zip(found, texts, expected, strict=True):
        assert row.body == text
        assert (row.embedding is None) if text is None else np.array_equal(np.array(row.embedding, np.float32), vector)
    print(f"Spark {pyspark.__version__}: {len(found)} rows, every vector the same bits")


if __name__ == "__main__":
    main()
