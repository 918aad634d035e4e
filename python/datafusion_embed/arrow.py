"""Columns of texts to columns of vectors, in pyarrow and whatever speaks it.

>>> import datafusion_embed.arrow
>>> table.append_column("v", datafusion_embed.arrow.embed(table["body"]))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ._sentence_transformer import SentenceTransformer

if TYPE_CHECKING:
    import pyarrow

Named = SentenceTransformer | str | None


def model_of(model: Named, **settings: Any) -> SentenceTransformer:
    """A model, or the one of a name with the settings of `SentenceTransformer`."""
    return model if isinstance(model, SentenceTransformer) else SentenceTransformer(model, **settings)


def embed(texts: pyarrow.Array | pyarrow.ChunkedArray, model: Named = None, **settings: Any) -> pyarrow.FixedSizeListArray:
    """The vectors of a column of texts, as a fixed-size list of float32; the vector of a NULL is NULL."""
    import pyarrow

    found = model_of(model, **settings)
    rows = texts.to_pylist()
    present = np.array([row is not None for row in rows], dtype=bool)
    values = np.zeros((len(rows), found.get_embedding_dimension()), dtype=np.float32)
    if present.any():
        values[present] = found.encode([row for row in rows if row is not None])
    mask = pyarrow.array(~present)
    return pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(values.reshape(-1)), values.shape[1], mask=mask)
