"""A callable for Ray Data, in the place of a class around SentenceTransformer.

>>> import datafusion_embed.ray
>>> ds.map_batches(datafusion_embed.ray.TextEmbedder, fn_constructor_kwargs={"column": "body"}, concurrency=2)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import arrow
from .arrow import model_of


class TextEmbedder:
    """Adds the column `output` with the vectors of the column `column`; batches are dicts of arrays, or tables of pyarrow."""

    def __init__(self, model: str | None = None, *, column: str = "text", output: str = "embedding", **settings: Any) -> None:
        self._model, self._column, self._output = model_of(model, **settings), column, output

    def __call__(self, batch: Any) -> Any:
        if isinstance(batch, dict):
            return {**batch, self._output: self._model.encode([str(text) for text in np.asarray(batch[self._column])])}
        return batch.append_column(self._output, arrow.embed(batch[self._column], self._model))
