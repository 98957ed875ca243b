"""What a model is for, and the metrics that suit it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from onnxslim1x1.errors import OptionError
from onnxslim1x1.runtime.boxes import BoxMetric, find_raw
from onnxslim1x1.runtime.compare import looks_like_classifier
from onnxslim1x1.runtime.image_metrics import ImageMetric, MaskMetric, channel_axis, has_ssim
from onnxslim1x1.runtime.metrics import ClassMetric, Metric, SignalMetric

Task = Literal["classification", "image", "detection", "segmentation", "regression", "audio"]
Shapes = Mapping[str, Sequence[int]]

TASKS: tuple[str, ...] = ("auto", *get_args(Task))
NO_SSIM = ("SSIM was left out: it needs scikit-image; pip install 'onnxslim1x1[images]'")
_LEAST_SAMPLES = 1000  # of a sound
_LEAST_SIDE = 8  # of a mask


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Chosen:
    """What a model is judged by.

    Attributes:
        task: what it is for.
        reason: why, in words.
        outputs: that suit it.
        metrics: of all outputs.
        notes: what could not be had, one line each.
    """

    task: Task
    reason: str
    outputs: tuple[str, ...]
    metrics: tuple[Metric, ...]
    notes: tuple[str, ...] = ()


def require_task(name: str) -> None:
    """See that there is such a task, before any work.

    Raises:
        OptionError: there is none, or the extra that it needs is missing.
    """
    if name not in TASKS:
        raise OptionError(f"--task {name}: unknown; choose from {', '.join(TASKS)}")
    if name == "image" and not has_ssim():
        raise OptionError("--task image: needs scikit-image; pip install 'onnxslim1x1[images]'")


def choose(asked: str, *, inputs: Shapes, outputs: Shapes, floats: Sequence[str], rows: int) -> Chosen:
    """Decide on the task by the shapes of one run, unless one was asked for, and make its metrics.

    Auto takes, in this order: *audio* if an input and an output are sounds, with the same number of at least 1,000
    samples on their last axis; *classification* if an output has one score per class; *detection* if
    there are scores and boxes of at least 16 places; *image* if an output is an image with as many channels as the
    input; *segmentation* if an output is a map of classes; else *regression*.

    Args:
        asked: a task, or ``auto``.
        inputs: shapes of what was fed, batch axis included.
        outputs: shapes of what came out.
        floats: outputs that hold fractions.
        rows: images in that run.

    Raises:
        OptionError: no output suits the task that was asked for.
    """
    task, reason, fits = _decide(asked, inputs, outputs, floats, rows)
    if not fits:
        raise OptionError(f"--task {task}: no output has a shape for it ({_shown(outputs)}); choose another task, or "
                          "regression, which suits every shape")
    also: tuple[str, ...] = {"regression": ("rel_error",), "audio": ("rel_error", "si_sdr_db"),
                             "detection": ("cosine",), "segmentation": ("cosine",)}.get(task, ())
    metrics: list[Metric] = []
    notes: tuple[str, ...] = ()
    if task == "classification":
        metrics.append(ClassMetric(fits[0]))
    elif task == "image":
        ssim = has_ssim()
        notes = () if ssim else (NO_SSIM,)
        metrics += [ImageMetric(name, ssim=ssim) for name in fits]
    elif task == "detection" and (raw := find_raw({n: s for n, s in outputs.items() if n in floats})):
        metrics.append(BoxMetric(raw))
    elif task == "segmentation":
        metrics += [MaskMetric(name) for name in fits]
    metrics += [SignalMetric(name, also) for name in outputs]
    return Chosen(task=task, reason=reason, outputs=tuple(fits), metrics=tuple(metrics), notes=notes)


def _decide(asked: str, inputs: Shapes, outputs: Shapes, floats: Sequence[str],
            rows: int) -> tuple[Task, str, list[str]]:
    """Task, reason and the outputs that suit it."""
    fits: dict[Task, list[str]] = {
        "audio": [n for n, s in outputs.items() if _is_sound(s) and any(
            _is_sound(i) and i[-1] == s[-1] for i in inputs.values())],
        "classification": [n for n, s in outputs.items()
                           if looks_like_classifier(s) and s[0] == rows and n in floats],
        "detection": [raw.boxes] if (raw := find_raw({n: s for n, s in outputs.items() if n in floats})) else [],
        "image": [n for n, s in outputs.items() if n in floats and any(_same_channels(s, i) for i in inputs.values())],
        "segmentation": [n for n, s in outputs.items() if _is_mask(s, whole=n not in floats)],
        "regression": list(outputs),
    }
    reasons = {"audio": "is a sound, as the input is", "classification": "has one score for each class",
               "detection": "holds boxes of many places", "image": "is an image, as the input is",
               "segmentation": "is a map of classes", "regression": "and the others fit nothing else"}
    if asked != "auto":
        task = next(name for name in get_args(Task) if name == asked)
        if task == "image":  # asked for explicitly, any image will do
            return task, "as asked for", [n for n, s in outputs.items() if n in floats and channel_axis(tuple(s))]
        return task, "as asked for", fits["audio"] or list(outputs) if task == "audio" else fits[task]
    task = next(name for name, found in fits.items() if found or name == "regression")
    first = fits[task][:1]
    return task, f"output {first[0]} {reasons[task]}" if first else "nothing could be compared", fits[task] or ["-"]


def _is_sound(shape: Sequence[int]) -> bool:
    return len(shape) in (2, 3) and shape[-1] >= _LEAST_SAMPLES and (len(shape) == 2 or shape[1] <= 2)


def _same_channels(output: Sequence[int], given: Sequence[int]) -> bool:
    axis, before = channel_axis(tuple(output)), channel_axis(tuple(given))
    if axis is None or before is None or output[axis] != given[before]:
        return False
    return min(n for i, n in enumerate(output) if i not in (0, axis)) >= _LEAST_SIDE


def _is_mask(shape: Sequence[int], *, whole: bool) -> bool:
    if len(shape) == 3:
        return whole and min(shape[1:]) >= _LEAST_SIDE
    return len(shape) == 4 and min(shape[2:]) >= _LEAST_SIDE


def _shown(outputs: Shapes) -> str:
    return ", ".join(f"{name} {'x'.join(map(str, shape)) or 'scalar'}" for name, shape in outputs.items())
