"""An embedding function for Chroma.

>>> from datafusion_embed.chroma import DataFusionEmbeddingFunction
>>> client.create_collection("docs", embedding_function=DataFusionEmbeddingFunction())
"""

from __future__ import annotations

from typing import Any

from chromadb.api.types import Documents, EmbeddingFunction, Embeddings, Space
from chromadb.utils.embedding_functions import register_embedding_function

from .arrow import model_of


@register_embedding_function
class DataFusionEmbeddingFunction(EmbeddingFunction[Documents]):
    """Documents and queries, each with the model's own prompt. A collection remembers the model's name and its settings."""

    def __init__(self, model: str | None = None, **settings: Any) -> None:
        self._config = {"model": model, "settings": settings}
        self._model = model_of(model, **settings)

    def __call__(self, input: Documents) -> Embeddings:
        return list(self._model.encode_document(list(input)))

    def embed_query(self, input: Documents) -> Embeddings:
        """The vectors of queries."""
        return list(self._model.encode_query(list(input)))

    @staticmethod
    def name() -> str:
        """What a collection calls it."""
        return "datafusion_embed"

    def default_space(self) -> Space:
        """What vectors are compared by."""
        return "cosine"

    def get_config(self) -> dict[str, Any]:
        """What `build_from_config` makes the same function of."""
        return self._config

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> DataFusionEmbeddingFunction:
        """The function of a collection."""
        return DataFusionEmbeddingFunction(config["model"], **config["settings"])
