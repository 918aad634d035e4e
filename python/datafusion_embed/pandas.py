"""Vectors of a column of pandas.

>>> import datafusion_embed.pandas
>>> df["v"] = df["body"].embed.text("BAAI/bge-small-en-v1.5")
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from .arrow import Named, model_of


def embed(texts: pd.Series, model: Named = None, **settings: Any) -> pd.Series:
    """The vectors of a column of texts, each an array of float32, None where a text is missing; the index is that of the texts."""
    found = model_of(model, **settings)
    present = texts.notna()
    vectors = pd.Series([None] * len(texts), index=texts.index, name=texts.name, dtype=object)
    vectors[present.to_numpy()] = list(found.encode(texts[present].tolist())) if present.any() else []
    return vectors


@pd.api.extensions.register_series_accessor("embed")
class Embed:
    """`df["body"].embed.text(model)`"""

    def __init__(self, texts: pd.Series) -> None:
        self._texts = texts

    def text(self, model: Named = None, **settings: Any) -> pd.Series:
        """As the function `embed`."""
        return embed(self._texts, model, **settings)
