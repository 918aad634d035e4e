"""Similarities of vectors, by the names that sentence-transformers has for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[Any]


def _rows(vectors: Any) -> Vectors:
    rows = np.asarray(vectors.cpu() if hasattr(vectors, "cpu") else vectors, dtype=np.float32)
    return rows[None, :] if rows.ndim == 1 else rows


def _normalized(rows: Vectors) -> Vectors:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12))


def _cosine(a: Vectors, b: Vectors) -> Vectors:
    return _normalized(a) @ _normalized(b).T


def _dot(a: Vectors, b: Vectors) -> Vectors:
    return a @ b.T


def _euclidean(a: Vectors, b: Vectors) -> Vectors:
    return np.asarray(-np.sqrt(((a[:, None, :] - b[None, :, :]) ** 2).sum(axis=-1)))


def _manhattan(a: Vectors, b: Vectors) -> Vectors:
    return np.asarray(-np.abs(a[:, None, :] - b[None, :, :]).sum(axis=-1))


_ALL: dict[str, Callable[[Vectors, Vectors], Vectors]] = {
    "cosine": _cosine,
    "dot": _dot,
    "euclidean": _euclidean,
    "manhattan": _manhattan,
}


def checked(name: str) -> str:
    """The name of a similarity. Raises ValueError for another one."""
    if name not in _ALL:
        raise ValueError(f"similarity {name!r}: it is one of {', '.join(_ALL)}")
    return name


def similarity(name: str, a: Any, b: Any) -> Vectors:
    """`[rows of a, rows of b]`."""
    return _ALL[name](_rows(a), _rows(b))


def similarity_pairwise(name: str, a: Any, b: Any) -> Vectors:
    """Of each row of a to the same row of b."""
    a, b = _rows(a), _rows(b)
    return np.array([_ALL[name](x[None, :], y[None, :])[0, 0] for x, y in zip(a, b, strict=True)], dtype=np.float32)
