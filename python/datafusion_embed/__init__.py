"""Sentence embeddings without torch: the class people know, and SQL over files and data frames.

>>> from datafusion_embed import SentenceTransformer
>>> model = SentenceTransformer("all-MiniLM-L6-v2")
>>> model.encode(["a bicycle", "a tax form"]).shape
(2, 384)

>>> import datafusion_embed
>>> con = datafusion_embed.connect()
>>> con.sql("SELECT array_length(embed('a bicycle')) AS n").fetchall()
[(384,)]
"""

from ._connection import Connection, Results, connect
from ._native import __version__
from ._sentence_transformer import SentenceTransformer

__all__ = ["Connection", "Results", "SentenceTransformer", "__version__", "connect"]
