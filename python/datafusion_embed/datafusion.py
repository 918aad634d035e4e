"""`embed(text)` in a session of datafusion-python, of any version.

>>> from datafusion import SessionContext
>>> import datafusion_embed.datafusion
>>> ctx = SessionContext()
>>> datafusion_embed.datafusion.register(ctx)
>>> ctx.sql("SELECT id, embed(body) FROM docs")

It is a plain function there: it runs where the optimizer puts it, also for rows that a filter or a LIMIT drops later. Where only the rows
that are left shall be embedded, `datafusion_embed.connect()` is the session.
"""

from __future__ import annotations

from typing import Any

import pyarrow
from datafusion import SessionContext, udf

from .arrow import Named, embed, model_of


def register(ctx: SessionContext, model: Named = None, name: str = "embed", **settings: Any) -> None:
    """Makes a function of a session that gives the vector of a text as a fixed-size list of float32, and NULL of NULL."""
    found = model_of(model, **settings)
    vector = pyarrow.list_(pyarrow.field("item", pyarrow.float32()), found.get_embedding_dimension())
    ctx.register_udf(udf(lambda texts: embed(texts, found), [pyarrow.string()], vector, "stable", name))
