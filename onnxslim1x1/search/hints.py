"""Names that were probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``; did you mean a?``, or what there is to choose from if nothing is near."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return f"; did you mean {', '.join(close)}?"
    some = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return f"; choose from {some}" if names else ""
