"""SQL: results, tables, parameters, files, errors."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY

import datafusion_embed
from datafusion_embed import Connection, SentenceTransformer

pa = pytest.importorskip("pyarrow")


def test_results_in_every_shape(con: Connection) -> None:
    query = con.sql("SELECT column1 AS id, embed(column2) AS v FROM (VALUES (1, 'a'), (2, NULL)) ORDER BY id")
    table = query.to_arrow()
    assert table.column_names == ["id", "v"]
    assert table.schema.field("v").type == pa.list_(pa.field("item", pa.float32()), 32)
    assert table["v"].null_count == 1
    assert pa.table(query).equals(table)
    assert pa.RecordBatchReader.from_stream(query).read_all().equals(table)
    rows = query.fetchall()
    assert [row[0] for row in rows] == [1, 2] and len(rows[0][1]) == 32 and rows[1][1] is None
    assert query.fetchone() == rows[0]
    assert list(query.to_pandas()["id"]) == [1, 2]
    assert con.sql("SELECT 1 AS a WHERE false").fetchall() == []


def test_vectors_are_those_of_the_class(con: Connection, model: SentenceTransformer, texts: list[str]) -> None:
    frame = pa.table({"text": texts})
    vectors = con.sql("SELECT embed(text) AS v FROM frame").to_arrow()["v"]
    assert (np.stack(vectors.to_numpy()) == model.encode(texts)).all()


def test_a_query_runs_when_its_rows_are_asked_for(con: Connection, capsys: pytest.CaptureFixture[str]) -> None:
    query = con.sql("SELECT 1 / column1 AS x FROM (VALUES (0))")
    with pytest.raises(RuntimeError, match="[Dd]ivide by zero"):
        query.fetchall()
    con.sql("SELECT 1 AS one").show()
    assert "one" in capsys.readouterr().out
    assert "one" in repr(con.sql("SELECT 1 AS one"))


def test_tables_of_a_program(con: Connection) -> None:
    frame = pa.table({"id": [1, 2, 3], "body": ["a", "b", "c"]})
    assert con.sql("SELECT count(*) FROM frame").fetchone() == (3,)
    frame = frame.slice(1)
    assert con.sql("SELECT count(*) FROM given", given=frame).fetchone() == (2,)
    with pytest.raises(ValueError, match="given"):
        con.sql("SELECT count(*) FROM given")
    con.register("kept", frame)
    assert con.sql("SELECT count(*) FROM kept", kept=frame.slice(1)).fetchone() == (1,)
    assert con.sql("SELECT sum(id) FROM kept").fetchone() == (5,)
    con.unregister("kept")
    with pytest.raises(ValueError, match="kept"):
        con.sql("SELECT sum(id) FROM kept")
    with pytest.raises(ValueError, match="'kept'"):
        con.unregister("kept")
    with pytest.raises(TypeError, match="not dict"):
        con.register("wrong", {"a": 1})


def test_a_variable_is_read_anew(con: Connection) -> None:
    for rows in (2, 5):
        frame = pa.table({"id": range(rows)})
        assert con.sql("SELECT count(*) FROM frame").fetchone() == (rows,)


def test_frames_of_others(con: Connection) -> None:
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    left = pandas.DataFrame({"id": [1, 2], "text": ["a", "b"]})
    right = polars.DataFrame({"id": [2, 3]})
    query = con.sql("SELECT l.id, array_length(embed(l.text)) AS n FROM left_ l JOIN right_ r USING (id)", left_=left, right_=right)
    assert query.fetchall() == [(2, 32)]
    assert query.to_polars().shape == (1, 2)
    duckdb = pytest.importorskip("duckdb")
    assert duckdb.sql("SELECT n FROM query").fetchall() == [(32,)]


def test_parameters(con: Connection, model: SentenceTransformer) -> None:
    assert con.sql("SELECT $1 + 1, $2", [1, "x"]).fetchone() == (2, "x")
    assert con.sql("SELECT $n * 2.0", {"n": 1.5}).fetchone() == (3.0,)
    row = con.sql("SELECT embed($1) AS v", ["a bicycle"]).fetchone()
    assert row is not None and (np.array(row[0], dtype=np.float32) == model.encode("a bicycle")).all()
    vector = model.encode("a bicycle")
    near = con.sql("SELECT round(cosine_similarity(embed('a bicycle'), $1), 5), $2 + 1", [vector, np.int64(2)]).fetchone()
    assert near == (1.0, 3)
    with pytest.raises(TypeError, match="not object"):
        con.sql("SELECT $1", [object()])


def test_files(con: Connection, tmp_path: Path) -> None:
    out = tmp_path / "vectors.parquet"
    frame = pa.table({"id": [1, 2], "body": ["a", "b"]})
    assert con.sql(f"COPY (SELECT id, embed(body) AS v FROM frame) TO '{out}'").fetchone() == (2,)
    assert con.sql(f"SELECT count(v) FROM '{out}'").fetchone() == (2,)
    with pytest.raises(FileNotFoundError, match="nosuch"):
        con.sql("SELECT * FROM '/nosuch/file.parquet'").fetchall()


def test_settings_and_errors(con: Connection) -> None:
    con.sql("SET embed.max_tokens = 8")
    with pytest.raises(ValueError, match="nosuch"):
        con.sql("SELECT nosuch FROM (VALUES (1))")
    with pytest.raises(ValueError):
        con.sql("SELEKT 1")
    with pytest.raises(ValueError, match="embed.precision|f64"):
        datafusion_embed.connect(model=TINY, arithmetic="f64")
    with pytest.raises(OSError, match="nosuch"):
        datafusion_embed.connect(model="/nosuch").sql("SELECT embed('x')").fetchall()


def test_threads_share_a_connection_and_not_their_tables(con: Connection) -> None:
    def own(number: int) -> bool:
        frame = pa.table({"x": [number] * 1000})
        return con.sql("SELECT max(x) FROM frame").fetchone() == (number,) and len(frame) == 1000

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(own, range(200)))


@pytest.mark.parametrize("show", [True, False])
def test_progress(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, show: bool) -> None:
    pytest.importorskip("tqdm")
    monkeypatch.setattr("datafusion_embed._connection.PATIENCE", 0.01)
    con = datafusion_embed.connect(show_progress_bar=show)
    rows = pa.table({"text": [f"text {number}, which is a little longer than the others are" for number in range(400)]})
    con.sql("SELECT 1 FROM rows").fetchall()
    assert capsys.readouterr().err == ""
    assert len(con.sql("SELECT embed(text) FROM rows").fetchall()) == 400
    assert ("400/400" in capsys.readouterr().err) == show


def test_two_statements_at_once(con: Connection) -> None:
    with pytest.raises(NotImplementedError, match="single"):
        con.sql("SELECT 1; SELECT 2")
