"""Embedders for Haystack pipelines.

>>> from datafusion_embed.haystack import DocumentEmbedder, TextEmbedder
>>> pipeline.add_component("embedder", DocumentEmbedder("BAAI/bge-small-en-v1.5"))
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from haystack import Document, component

from .arrow import Named, model_of


class _Embedder:
    def __init__(self, model: Named = None, **settings: Any) -> None:
        self._model = model_of(model, **settings)

    def warm_up(self) -> None:
        """Nothing: the model is there."""


@component
class TextEmbedder(_Embedder):
    """The vector of a query."""

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict[str, Any]:
        """Gives `embedding`."""
        return {"embedding": list(map(float, self._model.encode_query(text)))}


@component
class DocumentEmbedder(_Embedder):
    """The vectors of documents."""

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """Gives `documents`, each with its embedding."""
        vectors = self._model.encode_document([document.content or "" for document in documents])
        pairs = zip(documents, vectors, strict=True)
        return {"documents": [replace(document, embedding=list(map(float, vector))) for document, vector in pairs]}
