"""Embeddings for LangChain.

>>> from datafusion_embed.langchain import DataFusionEmbeddings
>>> DataFusionEmbeddings("BAAI/bge-small-en-v1.5").embed_query("cheap flights")
"""

from __future__ import annotations

from typing import Any

from langchain_core.embeddings import Embeddings

from .arrow import Named, model_of


class DataFusionEmbeddings(Embeddings):
    """Documents and queries, each with the model's own prompt; the asynchronous methods are LangChain's."""

    def __init__(self, model: Named = None, **settings: Any) -> None:
        self._model = model_of(model, **settings)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """The vectors of documents."""
        return [list(map(float, row)) for row in self._model.encode_document(texts)]

    def embed_query(self, text: str) -> list[float]:
        """The vector of a query."""
        return list(map(float, self._model.encode_query(text)))
