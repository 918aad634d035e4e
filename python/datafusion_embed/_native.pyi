"""What of the package is compiled."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ._progress import Look

__version__: str

def run_program(line: Sequence[str]) -> int: ...

class Model:
    def __new__(
        cls,
        name: str,
        *,
        arithmetic: str = "f32",
        device: str = "auto",
        max_tokens: int = 0,
        dimensions: int = 0,
        cache: str = "",
        offline: bool = False,
        threads: int = 0,
    ) -> Model: ...
    def embed(
        self, texts: Sequence[str], prompt: str = "", look: Look | None = None
    ) -> npt.NDArray[np.float32]: ...
    def count_tokens(self, texts: Sequence[str]) -> list[int]: ...
    @property
    def dim(self) -> int: ...
    @property
    def max_tokens(self) -> int | None: ...
    @property
    def device(self) -> str: ...
    @property
    def prompts(self) -> dict[str, str]: ...
    @property
    def default_prompt(self) -> str | None: ...

class Results:
    @property
    def schema(self) -> Any: ...
    def collect(self, first: int | None = None, look: Look | None = None) -> Any: ...
    def show(self, first: int, look: Look | None = None) -> str: ...
    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...

class Connection:
    def __new__(
        cls,
        settings: Mapping[str, str],
        *,
        cluster: str | None = None,
        token: str | None = None,
        certificates: str | os.PathLike[str] | None = None,
        memory_limit: int | None = None,
    ) -> Connection: ...
    def sql(
        self,
        statement: str,
        parameters: Sequence[object] | Mapping[str, object] | None,
        tables: Mapping[str, object],
        find: Callable[[str], object],
        look: Look | None = None,
    ) -> Results: ...
    def register(self, name: str, rows: object) -> None: ...
    def unregister(self, name: str) -> bool: ...
