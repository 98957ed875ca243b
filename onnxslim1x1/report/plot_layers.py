"""The errors of all tensors of a model as a picture, drawn by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from onnxslim1x1.errors import OptionError
from onnxslim1x1.report.plot import BLUE, ORANGE, picture, require_drawable
from onnxslim1x1.runtime.evidence import LayerError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LEAST = 1e-8  # an error of 0 has no place on a logarithmic axis
_LABELS = 12  # tensors that are named under the axis
_LONGEST = 24


def require_layers(path: Path, *, per_layer: bool) -> None:
    """Fail before the work rather than after it.

    Raises:
        OptionError: there is nothing to draw, the suffix is unknown, or matplotlib is missing.
    """
    if not per_layer:
        raise OptionError(f"--plot {path}: draws what --per-layer finds; give that, too")
    require_drawable(path)


def layers_image(layers: Sequence[LayerError], suffix: str) -> bytes:
    """Relative error (logarithmic) of every tensor in the order of computation; the same bytes every time.

    Args:
        layers: at least one.
        suffix: ``.svg``, ``.png`` or ``.pdf``.
    """
    return picture(lambda axes: _draw(axes, layers), suffix)


def _draw(axes: Axes, layers: Sequence[LayerError]) -> None:
    values = [min(max(one.rel_error, _LEAST), 1 / _LEAST) for one in layers]
    axes.plot(range(len(values)), values, "-", color=BLUE, linewidth=1, label="all tensors")
    new = [i for i, one in enumerate(layers) if one.rewritten]
    axes.plot(new, [values[i] for i in new], "o", color=ORANGE, markersize=4, label="written by a rewritten layer")
    axes.set_yscale("log")
    axes.grid(visible=True, which="major", color="0.9")
    axes.set_axisbelow(True)
    step = max(1, -(-len(layers) // _LABELS))
    places = list(range(0, len(layers), step))
    axes.set_xticks(places, [_short(layers[i].tensor) for i in places], rotation=45, ha="right", fontsize=7)
    axes.set_xlabel("tensors in the order of computation")
    axes.set_ylabel("relative error ||y - y'|| / ||y||")
    axes.legend(loc="lower right")


def _short(name: str) -> str:
    # matplotlib reads what stands between dollars as mathematics
    plain = name.replace("$", r"\$")
    return plain if len(name) <= _LONGEST else f"…{plain[-_LONGEST + 1:]}"
