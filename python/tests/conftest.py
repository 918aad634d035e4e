"""What the tests share."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

import datafusion_embed
from datafusion_embed import SentenceTransformer

FIXTURES = Path(__file__).parents[2] / "tests" / "fixtures"
TINY = str(FIXTURES / "tiny-bert")


def recorded(name: str) -> np.ndarray:
    """A tensor of expected.safetensors: what sentence-transformers gave for the texts of texts.json."""
    data = (FIXTURES / "expected.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    entry = json.loads(data[8 : 8 + length])[name]
    start, end = entry["data_offsets"]
    return np.frombuffer(data[8 + length :][start:end], dtype=np.float32).reshape(entry["shape"])


@pytest.fixture(scope="session")
def texts() -> list[str]:
    found = json.loads((FIXTURES / "texts.json").read_text())
    return found if isinstance(found, list) else found["texts"]


@pytest.fixture(scope="session")
def model() -> SentenceTransformer:
    return SentenceTransformer(TINY)


@pytest.fixture
def con() -> datafusion_embed.Connection:
    return datafusion_embed.connect(model=TINY)
