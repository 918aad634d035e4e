"""SQL with `embed`, over files, stores and the data frames of a program."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _native, _progress

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow


def connect(
    *,
    model: str | os.PathLike[str] | None = None,
    arithmetic: str | None = None,
    device: str | None = None,
    cache: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    memory_limit: int | None = None,
    cluster: str | None = None,
    token: str | None = None,
    certificates: str | os.PathLike[str] | None = None,
    settings: Mapping[str, object] | None = None,
    show_progress_bar: bool | None = None,
) -> Connection:
    """A session: SQL over files by their names, `embed(text)` and its sisters.

    `model`, `arithmetic` ("f32", "bf16", "int8"), `device`, `cache` (a folder in which vectors are kept) and `threads` are those of the
    program; `settings` are all others by their names, such as {"embed.max_tokens": 256}. `memory_limit` is in bytes. With `cluster`
    ("host:port") statements that read files run there; its `token` and its folder of `certificates` are otherwise those of EMBEDSQL_TOKEN
    and EMBEDSQL_CERTIFICATES. `show_progress_bar` is for what takes longer than a second; None is yes for those who
    log at INFO or DEBUG.
    """
    own: dict[str, object] = {
        "embed.model": model,
        "embed.precision": arithmetic,
        "embed.device": device,
        "embed.cache": cache,
        "embed.concurrency": threads,
        "datafusion.execution.target_partitions": threads,
    }
    given = {key: value for key, value in own.items() if value is not None} | dict(settings or {})
    native = _native.Connection(
        {key: _setting(value) for key, value in given.items()},
        cluster=cluster,
        token=token or os.environ.get("EMBEDSQL_TOKEN") or None,
        certificates=certificates or os.environ.get("EMBEDSQL_CERTIFICATES") or None,
        memory_limit=memory_limit,
    )
    return Connection(native, show_progress_bar)


#: Seconds that a statement may take before there is a bar.
PATIENCE = 1.0


def _setting(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


class Connection:
    """A session that `connect` made."""

    def __init__(self, native: _native.Connection, show_progress_bar: bool | None = None) -> None:
        self._native = native
        self._show_progress_bar = show_progress_bar

    def sql(self, statement: str, parameters: Sequence[object] | Mapping[str, object] | None = None, **tables: object) -> Results:
        """A statement: a query runs when its rows are asked for, everything else now.

        Parameters are `$1`, `$2` of a list or `$name` of a dict. An object with an Arrow stream (pyarrow, polars, pandas, duckdb) is a table by
        the name of a keyword, or of a variable where the call stands.
        """
        own = {name: _streamed(table) for name, table in tables.items()}
        find = _variables(sys._getframe(1))
        with _progress.bar(self._show_progress_bar, delay=PATIENCE) as look:
            results = self._native.sql(statement, _plain(parameters), own, find, look)
        return Results(results, self._show_progress_bar)

    def register(self, name: str, table: object) -> None:
        """Makes an object with an Arrow stream a table."""
        self._native.register(name, _streamed(table))

    def unregister(self, name: str) -> None:
        """Takes a table away. Raises ValueError where there is none."""
        if not self._native.unregister(name):
            raise ValueError(f"there is no table {name!r}")


def _plain(parameters: Any) -> Any:
    """Parameters without types of NumPy's."""
    if isinstance(parameters, Mapping):
        return {name: _plain(value) for name, value in parameters.items()}
    if isinstance(parameters, (list, tuple)):
        return [_plain(value) for value in parameters]
    return parameters.tolist() if isinstance(parameters, (np.ndarray, np.generic)) else parameters


def _variables(frame: Any) -> Callable[[str], object]:
    """Finds tables among the variables of a frame."""

    def find(name: str) -> object:
        for variables in (frame.f_locals, frame.f_globals):
            if name in variables and _is_table(variables[name]):
                return _streamed(variables[name])
        return None

    return find


def _is_table(value: object) -> bool:
    return hasattr(value, "__arrow_c_stream__") or hasattr(value, "__arrow_c_array__") or isinstance(value, Results)


def _streamed(table: object) -> object:
    if not _is_table(table):
        raise TypeError(f"a table is an object with __arrow_c_stream__ (pyarrow, polars, pandas 2.2, duckdb), not {type(table).__name__}")
    return table


def _tuples(rows: Any) -> list[tuple[Any, ...]]:
    import pyarrow

    columns = [column.to_pylist() for column in pyarrow.table(rows).columns]
    return list(zip(*columns, strict=True)) if columns else []


class Results:
    """Rows of a statement: any library that knows Arrow's stream reads them."""

    def __init__(self, native: _native.Results, show_progress_bar: bool | None = None) -> None:
        self._native = native
        self._show_progress_bar = show_progress_bar

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self._native.__arrow_c_stream__(requested_schema)

    def to_arrow(self) -> pyarrow.Table:
        """A table of pyarrow."""
        import pyarrow

        return pyarrow.table(self._collect())

    def to_pandas(self) -> pandas.DataFrame:
        """A data frame of pandas, by pyarrow."""
        return self.to_arrow().to_pandas()

    def to_polars(self) -> polars.DataFrame:
        """A data frame of polars."""
        import polars

        return polars.DataFrame(self._collect())

    def fetchall(self) -> list[tuple[Any, ...]]:
        """All rows as tuples of Python's own values, by pyarrow."""
        return _tuples(self._collect())

    def fetchone(self) -> tuple[Any, ...] | None:
        """The first row, or None; no more than that is computed."""
        rows = _tuples(self._collect(1))
        return rows[0] if rows else None

    def show(self, rows: int = 20) -> None:
        """Prints the first rows."""
        print(self._table(rows))

    def __repr__(self) -> str:
        return self._table(20)

    def _table(self, rows: int) -> str:
        with _progress.bar(self._show_progress_bar, delay=PATIENCE) as look:
            return self._native.show(rows, look)

    def _collect(self, rows: int | None = None) -> Any:
        with _progress.bar(self._show_progress_bar, delay=PATIENCE) as look:
            return self._native.collect(rows, look)
