"""Vectors in fewer bytes, as sentence-transformers' `quantize_embeddings` makes them."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import numpy.typing as npt

logger = logging.getLogger(__name__)

PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")


def quantize(vectors: npt.NDArray[np.float32], precision: str) -> npt.NDArray[Any]:
    """Vectors `[rows, dim]` in a precision; the ranges of int8 and uint8 are those of these vectors.

    Raises ValueError for int8 and uint8 of a single vector, which has no range.
    """
    if precision == "float32":
        return vectors
    if precision in ("binary", "ubinary"):
        packed = np.packbits(vectors > 0, axis=-1)
        signed: npt.NDArray[Any] = (packed - 128).astype(np.int8)
        return packed if precision == "ubinary" else signed
    if len(vectors) < 2:
        raise ValueError(f"precision {precision!r} needs at least two texts: its ranges are those of the vectors of one call")
    if len(vectors) < 100:
        logger.warning("the ranges of %s are computed from %d vectors, which is few", precision, len(vectors))
    least, most = vectors.min(axis=0), vectors.max(axis=0)
    steps = np.floor((vectors - least) / ((most - least) / 255))
    stored: npt.NDArray[Any] = steps.astype(np.uint8) if precision == "uint8" else (steps - 128).astype(np.int8)
    return stored
