"""The engines and protocols that people have already; each where it is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY

from datafusion_embed import SentenceTransformer

TEXTS = ["a bicycle", None, "a tax form", "a bicycle"]


def expected(model: SentenceTransformer) -> np.ndarray:
    return model.encode([text or "" for text in TEXTS])


def agrees(model: SentenceTransformer, rows: list[Any]) -> None:
    assert rows[1] is None
    for row, vector in zip(rows, expected(model), strict=True):
        assert row is None or (np.array(row, dtype=np.float32) == vector).all()


def test_duckdb(model: SentenceTransformer) -> None:
    duckdb = pytest.importorskip("duckdb")
    import datafusion_embed.duckdb

    con = duckdb.connect()
    datafusion_embed.duckdb.register(con, TINY)
    con.execute("CREATE TABLE docs(id INTEGER, body VARCHAR)")
    con.executemany("INSERT INTO docs VALUES (?, ?)", list(enumerate(TEXTS)))
    rows = con.sql("SELECT embed(body) AS v FROM docs ORDER BY id")
    assert [str(kind) for kind in rows.types] == ["FLOAT[32]"]
    agrees(model, [row[0] for row in rows.fetchall()])
    many = con.sql("SELECT count(embed('text ' || i % 100)) FROM range(10000) t(i)").fetchall()
    assert many == [(10000,)]


def test_polars(model: SentenceTransformer) -> None:
    pl = pytest.importorskip("polars")
    import datafusion_embed.polars

    frame = pl.DataFrame({"body": TEXTS})
    for column in (pl.col("body").embed.text(model), datafusion_embed.polars.embed("body", TINY)):
        eager, lazy = frame.select(v=column), frame.lazy().select(v=column)
        assert eager.schema == lazy.collect_schema() == {"v": pl.Array(pl.Float32, 32)}
        agrees(model, [row if row is None else list(row) for row in eager["v"].to_list()])
        assert lazy.collect().equals(eager)


def test_pandas(model: SentenceTransformer) -> None:
    pd = pytest.importorskip("pandas")
    import datafusion_embed.pandas

    frame = pd.DataFrame({"body": TEXTS}, index=[3, 3, 1, 0])
    for vectors in (frame["body"].embed.text(model), datafusion_embed.pandas.embed(frame["body"], TINY)):
        assert vectors.index.tolist() == [3, 3, 1, 0] and vectors.name == "body"
        agrees(model, vectors.tolist())
    assert datafusion_embed.pandas.embed(frame["body"][:0], model).tolist() == []
    assert datafusion_embed.pandas.embed(frame["body"][1:2], model).tolist() == [None]


def test_ray(model: SentenceTransformer) -> None:
    ray = pytest.importorskip("ray")
    from datafusion_embed.ray import TextEmbedder

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        texts = [text for text in TEXTS if text]
        for batch_format in ("numpy", "pyarrow"):
            rows = ray.data.from_items([{"id": i, "body": text} for i, text in enumerate(texts)]).map_batches(
                TextEmbedder,
                fn_constructor_kwargs={"model": TINY, "column": "body"},
                concurrency=1,
                batch_size=2,
                batch_format=batch_format,
            )
            found = sorted(rows.take_all(), key=lambda row: row["id"])
            vectors = np.stack([np.asarray(row["embedding"], dtype=np.float32) for row in found])
            assert (vectors == model.encode(texts)).all()
    finally:
        ray.shutdown()


def test_daft(model: SentenceTransformer) -> None:
    daft = pytest.importorskip("daft")
    import datafusion_embed.daft

    frame = daft.from_pydict({"body": TEXTS})
    rows = frame.select(datafusion_embed.daft.embed(daft.col("body"), TINY).alias("v")).to_pydict()["v"]
    agrees(model, list(rows))


def test_spark_function(model: SentenceTransformer) -> None:
    pa = pytest.importorskip("pyarrow")
    from datafusion_embed.spark import embedding

    batch = pa.record_batch({"id": [0, 1, 2, 3], "body": TEXTS})
    (found,) = embedding("body", TINY)(iter([batch]))
    assert found.schema.names == ["id", "body", "embedding"]
    assert found.schema.field("embedding").type == pa.list_(pa.float32())
    agrees(model, found.column("embedding").to_pylist())


def test_langchain(model: SentenceTransformer) -> None:
    pytest.importorskip("langchain_core")
    from datafusion_embed.langchain import DataFusionEmbeddings

    embeddings = DataFusionEmbeddings(TINY)
    assert np.allclose(embeddings.embed_documents(["a", "b"]), model.encode_document(["a", "b"]), atol=1e-7)
    assert np.allclose(embeddings.embed_query("a"), model.encode_query("a"), atol=1e-7)
    assert embeddings.embed_documents([]) == []


def test_llama_index(model: SentenceTransformer) -> None:
    pytest.importorskip("llama_index.core")
    from datafusion_embed.llama_index import DataFusionEmbedding

    embedding = DataFusionEmbedding(TINY)
    assert np.allclose(embedding.get_text_embedding_batch(["a", "b"]), model.encode_document(["a", "b"]), atol=1e-7)
    assert np.allclose(embedding.get_query_embedding("a"), model.encode_query("a"), atol=1e-7)


def test_chroma(model: SentenceTransformer, tmp_path: Path) -> None:
    chromadb = pytest.importorskip("chromadb")
    from datafusion_embed.chroma import DataFusionEmbeddingFunction

    client = chromadb.PersistentClient(str(tmp_path))
    collection = client.create_collection("docs", embedding_function=DataFusionEmbeddingFunction(TINY))
    collection.add(ids=["1", "2"], documents=["a bicycle", "a tax form"])
    found = collection.query(query_texts=["a bicycle"], n_results=1)
    assert found["ids"] == [["1"]]
    stored = collection.get(ids=["2"], include=["embeddings"])["embeddings"]
    assert np.allclose(stored, model.encode_document(["a tax form"]), atol=1e-6)
    assert client.get_collection("docs").query(query_texts=["a tax form"], n_results=1)["ids"] == [["2"]]


def test_haystack(model: SentenceTransformer) -> None:
    haystack = pytest.importorskip("haystack")
    from datafusion_embed.haystack import DocumentEmbedder, TextEmbedder

    pipeline = haystack.Pipeline()
    pipeline.add_component("embedder", DocumentEmbedder(TINY))
    (found,) = pipeline.run({"embedder": {"documents": [haystack.Document(content="a")]}})["embedder"]["documents"]
    assert np.allclose(found.embedding, model.encode_document("a"), atol=1e-7)
    assert np.allclose(TextEmbedder(TINY).run("a")["embedding"], model.encode_query("a"), atol=1e-7)


def test_datafusion(model: SentenceTransformer) -> None:
    datafusion = pytest.importorskip("datafusion")
    import datafusion_embed.datafusion

    ctx = datafusion.SessionContext()
    datafusion_embed.datafusion.register(ctx, TINY)
    ctx.from_pydict({"id": [0, 1, 2, 3], "body": TEXTS}, "docs")
    agrees(model, ctx.sql("SELECT embed(body) AS v FROM docs ORDER BY id").to_pydict()["v"])
    # The other way round only the rows that are left are embedded.
    con = datafusion_embed.connect(model=TINY)
    found = con.sql("SELECT embed(body) AS v FROM docs WHERE id = 2", docs=ctx.table("docs")).fetchall()
    assert (np.array(found[0][0], np.float32) == expected(model)[2]).all()
    assert con.sql("SELECT rows_embedded FROM embed_models()").fetchall() == [(1,)]


def test_arrow(model: SentenceTransformer) -> None:
    pa = pytest.importorskip("pyarrow")
    import datafusion_embed.arrow

    for texts in (pa.array(TEXTS), pa.chunked_array([TEXTS[:1], TEXTS[1:]]), pa.array(TEXTS, pa.string_view())):
        agrees(model, datafusion_embed.arrow.embed(texts, TINY).to_pylist())
    assert len(datafusion_embed.arrow.embed(pa.array([], pa.string()), model)) == 0
