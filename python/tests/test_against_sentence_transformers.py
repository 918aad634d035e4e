"""The same calls of the original class, where it is installed (pip install sentence-transformers)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import TINY

from datafusion_embed import SentenceTransformer

st = pytest.importorskip("sentence_transformers")


@pytest.fixture(scope="module")
def theirs() -> Any:
    return st.SentenceTransformer(TINY, device="cpu")


def agree(ours: Any, theirs: Any, tolerance: float = 1e-5) -> None:
    if isinstance(theirs, list):
        assert isinstance(ours, list) and len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            agree(a, b, tolerance)
        return
    assert type(ours) is type(theirs)
    a, b = np.asarray(ours), np.asarray(theirs)
    assert a.shape == b.shape and a.dtype == b.dtype
    assert np.abs(a.astype(np.float64) - b.astype(np.float64)).max(initial=0) <= tolerance


CALLS: list[dict[str, Any]] = [
    {},
    {"batch_size": 3},
    {"normalize_embeddings": True},
    {"truncate_dim": 8},
    {"truncate_dim": 8, "normalize_embeddings": True},
    {"convert_to_tensor": True},
    {"convert_to_numpy": False},
    {"convert_to_numpy": False, "convert_to_tensor": True},
    {"prompt_name": "query"},
    {"prompt": "other: "},
    {"precision": "ubinary"},
    {"precision": "binary"},
]


@pytest.mark.parametrize("call", CALLS, ids=str)
@pytest.mark.parametrize("method", ["encode", "encode_query", "encode_document"])
def test_calls(model: SentenceTransformer, theirs: Any, texts: list[str], method: str, call: dict[str, Any]) -> None:
    for inputs in (texts, texts[3], [texts[4]], np.array(texts[:5])):
        ours, expected = getattr(model, method)(inputs, **call), getattr(theirs, method)(inputs, **call)
        if "binary" in call.get("precision", ""):
            # A value next to zero may be on its other side.
            assert ours.shape == expected.shape and ours.dtype == expected.dtype
            assert (ours != expected).mean() < 0.01
        else:
            agree(ours, expected)


@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_ranges(model: SentenceTransformer, theirs: Any, texts: list[str], precision: str) -> None:
    agree(model.encode(texts, precision=precision), theirs.encode(texts, precision=precision), tolerance=1)


def test_nothing(model: SentenceTransformer, theirs: Any) -> None:
    agree(model.encode([]), theirs.encode([]))


WRONG: list[dict[str, Any]] = [
    {"batch_size": 0},
    {"precision": "nosuch"},
    {"nosuch": 1},
    {"prompt_name": "nosuch"},
]


@pytest.mark.parametrize("call", WRONG, ids=str)
def test_what_is_wrong(model: SentenceTransformer, theirs: Any, call: dict[str, Any]) -> None:
    with pytest.raises(Exception) as expected:
        theirs.encode(["a", "b"], **call)
    with pytest.raises(expected.type):
        model.encode(["a", "b"], **call)


def test_what_it_says_of_itself(model: SentenceTransformer, theirs: Any) -> None:
    assert model.prompts == theirs.prompts and model.default_prompt_name == theirs.default_prompt_name
    assert model.get_embedding_dimension() == theirs.get_embedding_dimension()
    assert model.max_seq_length == theirs.max_seq_length
    assert model.similarity_fn_name == str(theirs.similarity_fn_name)


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan"])
def test_similarities(theirs: Any, texts: list[str], name: str) -> None:
    ours, original = SentenceTransformer(TINY, similarity_fn_name=name), st.SentenceTransformer(TINY, device="cpu", similarity_fn_name=name)
    a, b = theirs.encode(texts[:4]), theirs.encode(texts[4:8])
    agree(ours.similarity(a, b), original.similarity(a, b), 1e-3)
    agree(ours.similarity_pairwise(a, b), original.similarity_pairwise(a, b), 1e-3)
