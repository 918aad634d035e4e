"""Vectors in Spark, by `mapInArrow`.

>>> from datafusion_embed.spark import embedding
>>> df.mapInArrow(embedding("body"), "id long, body string, embedding array<float>")
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from . import arrow
from .arrow import model_of

if TYPE_CHECKING:
    import pyarrow


def embedding(
    column: str, model: str | None = None, output: str = "embedding", **settings: Any
) -> Callable[[Iterator[pyarrow.RecordBatch]], Iterator[pyarrow.RecordBatch]]:
    """A function that adds the vectors of a column to each batch; the model is read where the task runs."""

    def run(batches: Iterator[pyarrow.RecordBatch]) -> Iterator[pyarrow.RecordBatch]:
        import pyarrow

        found = model_of(model, **settings)
        for batch in batches:
            vectors = arrow.embed(batch.column(column), found).cast(pyarrow.list_(pyarrow.float32()))
            yield batch.append_column(output, vectors)

    return run
