"""Pictures, drawn by matplotlib, which is an extra (``pip install 'onnxslim1x1[plot]'``): of a front, here."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxslim1x1.errors import OptionError
from onnxslim1x1.report.front import LOSS_LABELS
from onnxslim1x1.search.front import Front

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# What is written besides the drawing: nothing that differs from run to run
_METADATA: dict[str, dict[str, Any]] = {".svg": {"Date": None}, ".png": {}, ".pdf": {"CreationDate": None}}
_SALT = {"svg.hashsalt": "onnxslim1x1"}  # else the names of elements are random
_INCHES, _DPI = (7.0, 4.5), 150
_LEAST = 1e-9  # a loss of 0 has no place on a logarithmic axis
BLUE, ORANGE = "#0072b2", "#d55e00"  # told apart by colour-blind people, too (Okabe and Ito)


def require_drawable(path: Path) -> None:
    """Fail before the work rather than after it.

    Raises:
        OptionError: the suffix is unknown, or matplotlib is missing.
    """
    if path.suffix.lower() not in _METADATA:
        raise OptionError(f"--plot {path}: unknown kind of picture; name a file that ends in "
                          f"{' or '.join(_METADATA)}")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise OptionError(f"--plot {path}: drawing needs matplotlib ({error}); pip install "
                          "'onnxslim1x1[plot]'") from error


def front_image(front: Front, suffix: str) -> bytes:
    """Loss (logarithmic) over speed-up, predicted and measured; the same bytes every time.

    Args:
        front: what was found.
        suffix: ``.svg``, ``.png`` or ``.pdf``.
    """
    return picture(lambda axes: _draw(axes, front), suffix)


def picture(draw: Callable[[Axes], None], suffix: str) -> bytes:
    """One drawing as a file; the same bytes every time.

    Args:
        draw: draws onto empty axes.
        suffix: ``.svg``, ``.png`` or ``.pdf``.
    """
    import matplotlib as mpl
    import matplotlib.style
    from matplotlib.figure import Figure

    content = io.BytesIO()
    with mpl.style.context(["default", _SALT]):  # not the taste of whoever runs it
        figure = Figure(figsize=_INCHES, layout="constrained")
        draw(figure.add_subplot())
        kind = suffix.lower()
        figure.savefig(content, format=kind[1:], dpi=_DPI, metadata=_METADATA[kind])
    return content.getvalue()


def _draw(axes: Axes, front: Front) -> None:
    axes.plot([p.speedup for p in front.points], [max(p.loss, _LEAST) for p in front.points], "o-", color=BLUE,
              markersize=4, label="predicted")
    # without data a loss cannot be measured: then only the speed of a point moves
    found = [(p, p.measured, p.loss if p.measured.loss is None else p.measured.loss)
             for p in front.points if p.measured]
    for point, measured, loss in found:
        axes.plot([point.speedup, measured.speedup], [max(point.loss, _LEAST), max(loss, _LEAST)], ":", color="0.5")
    axes.plot([m.speedup for _, m, _ in found], [max(loss, _LEAST) for _, _, loss in found], "D", color=ORANGE,
              markersize=6, label="measured" if front.data else "measured speed-up")
    axes.set_yscale("log")
    axes.grid(visible=True, which="major", color="0.9")
    axes.set_axisbelow(True)
    axes.set_xlabel("speed-up over the original")
    axes.set_ylabel(LOSS_LABELS[front.loss_kind])
    axes.set_title(f"{front.model.path or 'model'}, {front.environment.cpu}", fontsize=10)
    axes.legend(loc="lower right")
