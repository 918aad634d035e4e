"""Vectors as an expression of Polars.

>>> import polars as pl, datafusion_embed.polars
>>> df.with_columns(v=pl.col("body").embed.text())
>>> df.with_columns(v=datafusion_embed.polars.embed("body", "BAAI/bge-small-en-v1.5"))
"""

from __future__ import annotations

from typing import Any

import polars as pl

from . import arrow
from .arrow import Named, model_of


def embed(texts: pl.Expr | str, model: Named = None, **settings: Any) -> pl.Expr:
    """The vectors of an expression of texts, as Array(Float32, dim); null of null."""
    found = model_of(model, **settings)
    dtype = pl.Array(pl.Float32, found.get_embedding_dimension())

    def vectors(series: pl.Series) -> pl.Series:
        return pl.Series(series.name, arrow.embed(series.to_arrow(), found), dtype=dtype)

    column = pl.col(texts) if isinstance(texts, str) else texts
    return column.map_batches(vectors, return_dtype=dtype, is_elementwise=True)


@pl.api.register_expr_namespace("embed")
class Embed:
    """`pl.col("body").embed.text(model)`"""

    def __init__(self, expr: pl.Expr) -> None:
        self._expr = expr

    def text(self, model: Named = None, **settings: Any) -> pl.Expr:
        """As the function `embed`."""
        return embed(self._expr, model, **settings)
