"""`onnxslim1x1 init`: a first configuration file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnxslim1x1.cli.discovery import CONFIG_FILE
from onnxslim1x1.cli.groups import grouped
from onnxslim1x1.cli.options import DebugFlags
from onnxslim1x1.cli.output import note
from onnxslim1x1.errors import DataError, OptionError, OutputError

if TYPE_CHECKING:
    from onnxslim1x1.graph.model import Model
    from onnxslim1x1.runtime.look import Look
    from onnxslim1x1.runtime.preprocess import Preprocess


@dataclass(frozen=True, kw_only=True, slots=True)
class StarterFlags:
    """What is known already."""

    calibration: Annotated[Path | None, typer.Option(
        help="Images to fit to, labels not needed: a folder, .npy or .npz.")] = None
    data: Annotated[Path | None, typer.Option(help="Images to compare on: a folder, .npy or .npz.")] = None
    labels: Annotated[Path | None, typer.Option(help="Their labels, if they do not come with them.")] = None
    preprocess: Annotated[str | None, typer.Option(
        help="What is done to the pixels: imagenet, cifar10, imagenet-caffe, unit or raw (default: a guess).")] = None

    def sizes(self, model: Model | None, seen: Look | None) -> Mapping[str, int | tuple[int, int]]:
        """Options that bring the images to the size of the input; the images are opened to see that they fit.

        Raises:
            DataError: they cannot be used.
            OptionError: an unknown preset, or labels without data.
        """
        from onnxslim1x1.runtime.preprocess import preprocess

        if self.labels is not None and self.data is None:
            raise OptionError(f"--labels {self.labels}: labels need the images they belong to; give --data")
        known = seen.sizes if seen is not None and self.preprocess is None else {}
        prep = preprocess(self.preprocess or (seen.preset if seen else None), **known)
        if model is None or seen is None:
            return known
        try:
            self._open(model, prep)
        except DataError:
            if seen.image is None or known:
                raise
            resized = {"resize": seen.image} | ({} if prep.crop is None else {"crop": seen.image})
            self._open(model, preprocess(self.preprocess or seen.preset, **resized))
            return resized
        return known

    def _open(self, model: Model, prep: Preprocess) -> None:
        from onnxslim1x1.runtime.options import DataOptions, RunOptions
        from onnxslim1x1.runtime.store import NO_STORE

        shapes = RunOptions(store=NO_STORE).shapes(model)
        for path, labels in ((self.calibration, None), (self.data, self.labels)):
            if path is not None:
                DataOptions(path=path, labels=labels, preprocess=prep, limit=1).open(model, shapes)


@grouped
def command(
    model: Annotated[Path | None, typer.Argument(
        help="ONNX model to look at; without one, the file holds examples only.", show_default=False)] = None, *,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")] = Path(CONFIG_FILE),
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it is there.")] = False,
    known: StarterFlags, _out: DebugFlags,
) -> None:
    """Write a commented configuration file, so that slim and validate need no arguments."""
    from onnxslim1x1.graph.model import load
    from onnxslim1x1.graph.save import require_writable, write_bytes
    from onnxslim1x1.report.starter import Places, starter_text
    from onnxslim1x1.runtime.look import look

    require_writable(output, model, example=CONFIG_FILE)
    if os.path.lexists(output) and not force:
        raise OutputError(f"{output}: is there already; overwrite it with --force, or choose another name with -o")
    loaded = None if model is None else load(model)
    seen = None if loaded is None else look(loaded)
    sizes = known.sizes(loaded, seen)
    places = Places(**{name: None if path is None else _relative(path, output) for name, path in {
        "model": model, "rewritten": None if model is None else model.with_name(f"{model.stem}-slim.onnx"),
        "calibration": known.calibration, "data": known.data, "labels": known.labels}.items()})
    text = starter_text(seen, places, preset=known.preprocess, sizes=sizes)
    write_bytes(output, text.encode("utf-8", errors="replace"))
    note(f"wrote {output}" + (f"; preprocess = {seen.preset} is a guess ({seen.reason})"
                              if seen and seen.preset and not known.preprocess else ""))


def _relative(path: Path, output: Path) -> str:
    """A path as seen from the file."""
    try:
        return Path(os.path.relpath(path, output.parent)).as_posix()
    except ValueError:  # another drive
        return path.absolute().as_posix()
