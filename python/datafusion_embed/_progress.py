"""A bar of tqdm's, where tqdm is there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: What is told how many texts are done, and of how many where that is known later than the bar begins.
Look = Callable[..., None]


def wanted(show: bool | None) -> bool:
    """What `show_progress_bar` means: where nobody says, bars are for those who log at INFO or DEBUG."""
    if show is None:
        return logging.getLogger("datafusion_embed").getEffectiveLevel() <= logging.INFO
    return show


@contextmanager
def bar(show: bool | None, total: int | None = None, delay: float = 0) -> Iterator[Look | None]:
    """Gives what is to be told how far the work is, or None. What takes less than `delay` seconds shows nothing."""
    if not wanted(show):
        yield None
        return
    try:
        from tqdm.auto import tqdm
    except ImportError:
        raise ImportError("a progress bar needs tqdm: pip install tqdm, or show_progress_bar=False") from None
    with tqdm(total=total, desc="Texts", delay=delay) as shown:

        def look(done: int, of: int | None = None) -> None:
            shown.total = of or shown.total
            shown.update(done - shown.n)

        yield look
        if shown.total is not None:
            shown.update(shown.total - shown.n)
