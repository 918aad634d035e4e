"""An embedding model for LlamaIndex.

>>> from datafusion_embed.llama_index import DataFusionEmbedding
>>> Settings.embed_model = DataFusionEmbedding("BAAI/bge-small-en-v1.5")
"""

from __future__ import annotations

from typing import Any

from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.embeddings import BaseEmbedding

from .arrow import Named, model_of


class DataFusionEmbedding(BaseEmbedding):
    """Texts with the model's prompt for documents, queries with that for queries."""

    _model: Any = PrivateAttr()

    def __init__(self, model: Named = None, embed_batch_size: int = 1024, **settings: Any) -> None:
        found = model_of(model, **settings)
        super().__init__(model_name=repr(found), embed_batch_size=embed_batch_size)
        self._model = found

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return [list(map(float, row)) for row in self._model.encode_document(texts)]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        return list(map(float, self._model.encode_query(query)))

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)
