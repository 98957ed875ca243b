"""Figures of the user's own: ``--metric module:function``.

The function is called once per batch with the outputs of both models and the labels:

    def function(original: dict[str, numpy.ndarray], rewritten: dict[str, numpy.ndarray],
                 labels: numpy.ndarray | None) -> numpy.ndarray | tuple[numpy.ndarray, numpy.ndarray]

It returns one number per image (N,), which compares both models, or two such arrays, the figure of the original and
that of the rewritten model. The result is their mean over the images. Higher is better unless the function has an
attribute ``better = "lower"``; an attribute ``unit`` names the unit.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxslim1x1.errors import DataError, OptionError
from onnxslim1x1.runtime.metrics import Batch, Columned
from onnxslim1x1.runtime.series import Series, known_mean

Function = Callable[..., Any]


def load_metric(text: str) -> CustomMetric:
    """Import a metric by ``module:function``; modules of the working directory are found, too.

    Raises:
        OptionError: the text is malformed, the module cannot be imported, or has no such function.
    """
    module, colon, name = text.partition(":")
    if not (module and colon and name):
        raise OptionError(f"--metric {text}: must read module:function, such as my_metrics:word_error_rate")
    place = str(Path.cwd())
    sys.path.insert(0, place)
    try:
        found = import_module(module)
    except Exception as error:  # whatever the module of the user does
        reason = " ".join(str(error).split())[:300]
        raise OptionError(f"--metric {text}: {module} cannot be imported ({type(error).__name__}: {reason}); it must "
                          "be installed, or lie in the working directory") from error
    finally:
        sys.path.remove(place)
    function = getattr(found, name, None)
    if not callable(function):
        offered = [n for n, value in vars(found).items() if callable(value) and not n.startswith("_")]
        raise OptionError(f"--metric {text}: {module} has no function {name}; it has {', '.join(offered) or 'none'}")
    better = getattr(function, "better", "higher")
    if better not in ("higher", "lower"):
        raise OptionError(f"--metric {text}: {name}.better is {better!r}; it must be 'higher' or 'lower'")
    return CustomMetric(text, function)


class CustomMetric:
    """A function of the user as a metric; see the module.

    Args:
        text: as it was asked for, for messages.
        function: see the module.
    """

    def __init__(self, text: str, function: Function) -> None:
        self._text, self._function, self._columns = text, function, Columned()

    def add(self, batch: Batch) -> None:
        """Call the function.

        Raises:
            DataError: it fails, or returns something else than one finite number per image, once or twice.
        """
        try:
            values = self._function(dict(batch.original), dict(batch.rewritten), batch.labels)
        except Exception as error:  # whatever the function of the user does
            reason = " ".join(str(error).split())[:300]
            raise DataError(f"--metric {self._text}: failed on a batch of {batch.rows} images "
                            f"({type(error).__name__}: {reason}); repair the function") from error
        parts = values if isinstance(values, tuple) else (values,)
        if len(parts) > 2:
            raise DataError(f"--metric {self._text}: returned {len(parts)} arrays; return one, or one for the original "
                            "and one for the rewritten model")
        names = ("value",) if len(parts) == 1 else ("original", "rewritten")
        if self._columns and not all(name in self._columns for name in names):
            raise DataError(f"--metric {self._text}: returned one array for some batches and two for others")
        self._columns.put(**{name: self._checked(part, batch.rows) for name, part in zip(names, parts, strict=True)})

    def _checked(self, part: Any, rows: int) -> NDArray[np.float64]:
        try:
            found = np.asarray(part, np.float64)
        except (TypeError, ValueError) as error:
            raise DataError(f"--metric {self._text}: returned {type(part).__name__}, not numbers; return an array of "
                            f"{rows}, one for each image") from error
        if found.shape != (rows,):
            raise DataError(f"--metric {self._text}: returned an array of shape {found.shape} for {rows} images; "
                            f"return shape ({rows},), one number for each image")
        if not np.isfinite(found).all():
            raise DataError(f"--metric {self._text}: returned NaN or infinite numbers; return finite ones")
        return found

    def series(self) -> tuple[Series, ...]:
        """The mean over the images."""
        if not self._columns:
            return ()
        paired = "original" in self._columns
        return (Series(name=self._text.partition(":")[2], unit=str(getattr(self._function, "unit", "")),
                       better=getattr(self._function, "better", "higher"), statistic=known_mean,
                       columns=self._columns("rewritten" if paired else "value"),
                       original=self._columns("original") if paired else None),)
