"""A first configuration file, with comments, from a look at a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from onnxslim1x1.runtime.look import Look


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Files that the configuration names, as texts relative to it; None for what is not known yet."""

    model: str | None = None
    rewritten: str | None = None
    calibration: str | None = None
    data: str | None = None
    labels: str | None = None


def starter_text(seen: Look | None, places: Places, *, preset: str | None = None,
                 sizes: Mapping[str, int | tuple[int, int]] | None = None) -> str:
    """The configuration file.

    Args:
        seen: the look at the model, if there is one.
        places: files to name.
        preset: preprocessing that was asked for, instead of a guess.
        sizes: options that bring the images to the size of the input.
    """
    blocks = [_head(seen, places), _models(places), _data(places), _pixels(seen, preset, sizes or {}), _running(seen),
              _slimming(), _gates(seen, places)]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _head(seen: Look | None, places: Places) -> list[str]:
    lines = ["# Configuration of onnxslim1x1: https://toml.io, written by onnxslim1x1 init.",
             "# Every option of analyze, plan, slim and validate may stand here by its name (onnxslim1x1 slim --help",
             "# lists them): at the top for all commands, in [analyze], [plan], [slim] or [validate] for one.",
             "# The command line overrides this file. Paths are relative to it."]
    if seen is not None:
        lines += ["#", f"# {_said(places.model or 'the model')}",
                  *(f"#   reads  {_said(p.name)}: {_said(p.text)}" for p in seen.inputs),
                  *(f"#   writes {_said(p.name)}: {_said(p.text)}" for p in seen.outputs)]
        if seen.classes is not None:
            lines.append(f"#   scores of {seen.classes} classes, it seems")
    return lines


def _models(places: Places) -> list[str]:
    return ["# Before and after: slim writes `rewritten`, validate compares the two.",
            _line("model", places.model, "model.onnx"), _line("rewritten", places.rewritten, "model-slim.onnx")]


def _data(places: Places) -> list[str]:
    return ["# Images that the weights are fitted to, without labels, a few hundred: a folder, .npy or .npz.",
            _line("calibration", places.calibration, "calibration.npz"),
            "# Other images to compare on; without them, validate draws random inputs, which says little.",
            _line("data", places.data, "evaluation.npz"),
            "# Their labels, if they do not come with them: a CSV with file,label, .npy or .npz.",
            _line("labels", places.labels, "labels.csv")]


def _pixels(seen: Look | None, preset: str | None, sizes: Mapping[str, int | tuple[int, int]]) -> list[str]:
    sized = [f"{key} = {json.dumps(size)}" for key, size in sizes.items()]
    if preset is not None:
        return ["# What is done to the pixels.", _line("preprocess", preset, ""), *sized]
    choices = "imagenet, cifar10, imagenet-caffe, unit or raw; mean, std, scale, resize, crop override parts of it"
    if seen is None or seen.preset is None:
        return [f"# What is done to pixels: {choices}.", _line("preprocess", None, "imagenet")]
    return [f"# A GUESS, check it against the training: {seen.reason}.", f"# ({choices})",
            _line("preprocess", seen.preset, ""), *sized]


def _running(seen: Look | None) -> list[str]:
    lines = ["# Threads within an operator; measure with as many as the model will run with. 0: onnxruntime chooses.",
             "# threads = 1"]
    if seen is not None and seen.free:
        sizes = ", ".join(json.dumps(f"{name}={size}", ensure_ascii=False) for name, size in seen.free.items())
        lines += ["# Sizes of the free dimensions, where these are not what you deploy.", f"# dim = [{_said(sizes)}]"]
    return lines


def _slimming() -> list[str]:
    return ["[slim]", "# What to reach; one target at a time. Without any, at most one point of accuracy is lost (with",
            "# calibration), else every layer keeps its weights within 5 %.",
            "# target-speedup = 1.5", "# target-macs = 0.67", "# max-drop = 0.01",
            '# exclude = ["*/classifier"]']


def _gates(seen: Look | None, places: Places) -> list[str]:
    scores = seen is not None and seen.classes is not None and places.data is not None
    return ["[validate]", "# Gates. If one fails, the exit code is 4 (accuracy) or 5 (latency and size).",
            "max-drop = 0.01" if scores else "# max-drop = 0.01        # top-1, or without labels: changed classes",
            "# min-agreement = 0.98    # part of the images with the same class",
            "# min-snr = 20.0          # of the worst output, in dB" if scores else
            "min-snr = 10.0            # of the worst output, in dB",
            "# min-speedup = 1.1       # measured",
            "# gate = [\"kl<=0.05\"]     # any figure that validate shows",
            "# What later exports must not fall behind. Write it with: onnxslim1x1 validate --update-baseline",
            _line("baseline", "baseline.json" if places.model else None, "baseline.json")]


def _line(key: str, value: str | None, example: str) -> str:
    """A key with its value, or an example behind a comment sign."""
    return f"# {key} = {_quoted(example)}" if value is None else f"{key} = {_quoted(value)}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _said(text: str) -> str:
    """In a comment: names from a model may hold line breaks."""
    return "".join(c if c.isprintable() else "?" for c in text)
