"""A bar of tqdm's, where tqdm is there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def wanted(show: bool | None) -> bool:
    """What `show_progress_bar` means: where nobody says, bars are for those who log at INFO or DEBUG."""
    if show is None:
        return logging.getLogger("datafusion_embed").getEffectiveLevel() <= logging.INFO
    return show


@contextmanager
def bar(total: int, show: bool) -> Iterator[Callable[[int], None] | None]:
    """Gives what is to be told how many of all are done, or None."""
    if not show:
        yield None
        return
    try:
        from tqdm.auto import tqdm
    except ImportError:
        raise ImportError("a progress bar needs tqdm: pip install tqdm, or show_progress_bar=False") from None
    with tqdm(total=total, desc="Texts") as shown:
        yield lambda done: shown.update(done - shown.n) and None
        shown.update(total - shown.n)
