"""How the texts of options become values."""

from __future__ import annotations

import re
from collections.abc import Sequence

from onnxslim1x1.errors import OptionError


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """``x:1,3,224,224``, ``x:1x3x224x224`` or ``x:[1,3,224,224]``; without a name for the only input.

    Raises:
        OptionError: it is none of these.
    """
    found = re.fullmatch(r"(?:(.+):)?\[?\s*([0-9]+(?:\s*[x,]\s*[0-9]+)*)\s*\]?", text.strip())
    if not found:
        raise OptionError(f"--input-shape {text}: cannot be read; write name:1,3,224,224")
    return found[1] or "", tuple(int(n) for n in re.findall(r"[0-9]+", found[2]))


def parse_dims(texts: Sequence[str]) -> dict[str, int]:
    """``batch=1,height=224``.

    Raises:
        OptionError: it is something else.
    """
    dims = {}
    for part in (p for text in texts for p in text.split(",")):
        name, _, size = part.rpartition("=")
        if not name or not re.fullmatch(r"\s*0*[1-9][0-9]*\s*", size):
            raise OptionError(f"--dim {part}: cannot be read; write name=size, such as batch=1")
        dims[name.strip()] = int(size)
    return dims


def parse_ranks(texts: Sequence[str]) -> dict[str, int]:
    """``LAYER=R``.

    Raises:
        OptionError: it is something else.
    """
    ranks = {}
    for text in texts:
        name, _, rank = text.rpartition("=")
        if not name or not re.fullmatch(r"-?[0-9]+", rank):
            raise OptionError(f"--rank {text}: cannot be read; write LAYER=RANK, such as conv2=32")
        ranks[name] = int(rank)
    return ranks


def parse_numbers(option: str, text: str, most: int = 1024) -> tuple[int, ...]:
    """``1`` or ``1,2,4``.

    Raises:
        OptionError: it is something else, or beyond `most`.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise OptionError(f"{option} {text}: cannot be read; write numbers joined by commas, such as 1,2")
    if max(map(int, parts)) > most:
        raise OptionError(f"{option} {text}: at most {most}")
    return tuple(map(int, parts))


def parse_sizes(option: str, text: str) -> tuple[int, ...]:
    """``5`` or ``5x3``.

    Raises:
        OptionError: it is something else.
    """
    if not re.fullmatch(r"[0-9]+(\s*[x,]\s*[0-9]+)*", text.strip()):
        raise OptionError(f"{option} {text}: cannot be read; write a number or numbers joined by x, such as 5x3")
    return tuple(int(n) for n in re.findall(r"[0-9]+", text))


def parse_size(option: str, text: str) -> int | tuple[int, int]:
    """One side, or ``HEIGHTxWIDTH``.

    Raises:
        OptionError: it is something else.
    """
    sizes = parse_sizes(option, text)
    if len(sizes) > 2:
        raise OptionError(f"{option} {text}: give one side or HEIGHTxWIDTH")
    return sizes[0] if len(sizes) == 1 else (sizes[0], sizes[1])


def parse_floats(option: str, text: str) -> tuple[float, ...]:
    """``.485,.456,.406``.

    Raises:
        OptionError: it is something else.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise OptionError(f"{option} {text}: cannot be read; write numbers joined by commas") from None


def parse_fraction(option: str, text: str) -> float:
    """``0.00392`` or ``1/255``.

    Raises:
        OptionError: it is something else.
    """
    over, slash, under = text.partition("/")
    try:
        return float(over) / (float(under) if slash else 1.0)
    except (ValueError, ZeroDivisionError):
        raise OptionError(f"{option} {text}: cannot be read; write a number or a fraction such as 1/255") from None
