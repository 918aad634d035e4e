"""Vectors as an expression of Daft.

>>> import daft, datafusion_embed.daft
>>> df.with_column("v", datafusion_embed.daft.embed(daft.col("body")))
"""

from __future__ import annotations

from typing import Any

import daft
from daft import DataType, Expression, Series

from . import arrow
from .arrow import Named, model_of


def embed(texts: Expression, model: Named = None, **settings: Any) -> Expression:
    """The vectors of an expression of texts, as an embedding of float32; null of null."""
    found = model_of(model, **settings)
    dtype = DataType.embedding(DataType.float32(), found.get_embedding_dimension())

    @daft.func.batch(return_dtype=dtype)
    def vectors(series: Series) -> Any:
        return arrow.embed(series.to_arrow(), found)

    return vectors(texts)
