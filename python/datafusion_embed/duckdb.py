"""`embed(text)` in DuckDB.

>>> import duckdb, datafusion_embed.duckdb
>>> con = duckdb.connect()
>>> datafusion_embed.duckdb.register(con)
>>> con.sql("SELECT id, embed(body) FROM 'docs.parquet'")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .arrow import Named, embed, model_of

if TYPE_CHECKING:
    import duckdb


def register(con: duckdb.DuckDBPyConnection, model: Named = None, name: str = "embed", **settings: Any) -> None:
    """Makes a function of a connection that gives the vector of a text as FLOAT[dim], and NULL of NULL."""
    found = model_of(model, **settings)
    vectors = f"FLOAT[{found.get_embedding_dimension()}]"
    # Its stubs do not know functions of Arrow's arrays.
    create: Any = con.create_function
    create(name, lambda texts: embed(texts, found), ["VARCHAR"], vectors, type="arrow", null_handling="special")
