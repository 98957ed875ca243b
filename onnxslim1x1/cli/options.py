"""Options that several commands share, in groups (see `onnxslim1x1.cli.groups`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnxslim1x1.cli.output import note
from onnxslim1x1.cli.parsing import parse_dims, parse_floats, parse_fraction, parse_ranks, parse_shape, parse_size
from onnxslim1x1.cli.rivals import GATES
from onnxslim1x1.errors import OptionError

if TYPE_CHECKING:
    from onnxslim1x1.runtime.options import DataOptions, RunOptions
    from onnxslim1x1.runtime.preprocess import Preprocess
    from onnxslim1x1.runtime.store import Store
    from onnxslim1x1.runtime.validate import ValidationSettings
    from onnxslim1x1.search.plan import Budget

ModelArgument = Annotated[Path, typer.Argument(help="ONNX model.", show_default=False)]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="File to write.", show_default=False)]
OptionalOutput = Annotated[Path | None, typer.Option(
    "--output", "-o", help="File to write (needed without --explore).", show_default=False)]
CalibrationOption = Annotated[Path | None, typer.Option(
    help="Images to fit to, labels not needed: a folder, .npy or .npz.")]
GateOption = Annotated[list[str] | None, typer.Option(
    help="Gate on any figure that validate shows: 'psnr_db>=40', 'kl<=0.05'; repeatable.")]
CacheOption = Annotated[Path | None, typer.Option(
    help="Folder for what is kept between runs (default: $ONNXSLIM1X1_CACHE, else the user's cache folder).")]
Progress = Callable[[str, float], None]


class Debug:
    """Whether errors show their traceback; set by --debug, read by `onnxslim1x1.cli.main.main`."""

    enabled = False


def _set_debug(value: bool) -> bool:
    Debug.enabled = Debug.enabled or value
    return value


@dataclass(frozen=True, kw_only=True, slots=True)
class DebugFlags:
    """How errors are shown."""

    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", callback=_set_debug)] = False


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputFlags(DebugFlags):
    """How results are shown."""

    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")] = False


@dataclass(frozen=True, kw_only=True, slots=True)
class AnyRunFlags:
    """How models are run, but for the threads."""

    provider: Annotated[str | None, typer.Option(help="Execution provider, such as cpu or cuda.")] = None
    input_shape: Annotated[list[str] | None, typer.Option(
        help="Shape of an input: x:1,3,224,224 (also x:1x3x224x224); repeatable.")] = None
    dim: Annotated[list[str] | None, typer.Option(
        help="Sizes of free dimensions: batch=1,height=224; repeatable.")] = None
    seed: Annotated[int, typer.Option(help="Seed of random inputs and of sampled statistics.", min=0)] = 0
    run_limit: Annotated[float | None, typer.Option(
        help="Seconds that onnxruntime may take to load the model, or to run it once on random inputs; 0: no limit "
             "(default: 6, and 1 per MB of the file).", min=0.0)] = None
    cache: CacheOption = None
    no_cache: Annotated[bool, typer.Option(
        "--no-cache", help="Measure everything anew, and keep nothing for the next run.")] = False
    config: Annotated[Path | None, typer.Option(
        metavar="FILE", help="Configuration file with defaults of all options (default: onnxslim1x1.toml, or "
                             "pyproject.toml with [tool.onnxslim1x1], here or in a folder above).")] = None
    no_config: Annotated[bool, typer.Option("--no-config", help="Ignore configuration files.")] = False

    def with_threads(self, threads: int, progress: Progress | None) -> RunOptions:
        """As a value of the API.

        Raises:
            OptionError: a text is malformed, or two options contradict each other.
        """
        from onnxslim1x1.runtime.options import RunOptions
        from onnxslim1x1.runtime.watch import WATCH

        WATCH.limit_s = self.run_limit
        return RunOptions(threads=threads, provider=self.provider, dims=parse_dims(self.dim or []),
                          input_shapes=dict(map(parse_shape, self.input_shape or [])), seed=self.seed,
                          progress=progress, store=self.store())

    def store(self) -> Store:
        """Where results are kept between runs.

        Raises:
            OptionError: a folder is named for what is not to be kept.
        """
        from onnxslim1x1.runtime.store import NO_STORE, user_store

        if self.no_cache and self.cache is not None:
            raise OptionError(f"--cache {self.cache}: contradicts --no-cache; drop one of the two")
        return NO_STORE if self.no_cache else user_store(self.cache, warn=partial(note, kind="warning"))


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFlags(AnyRunFlags):
    """How models are run."""

    threads: Annotated[int, typer.Option(
        help="Threads within an operator; 0: as many as onnxruntime chooses.", min=0, max=1024)] = 0

    def options(self, progress: Progress | None) -> RunOptions:
        """As a value of the API.

        Raises:
            OptionError: a text is malformed, or two options contradict each other.
        """
        return self.with_threads(self.threads, progress)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFlags:
    """How many images, and what is done to them."""

    limit: Annotated[int | None, typer.Option(help="At most so many images, evenly spread.", min=1)] = None
    preprocess: Annotated[str | None, typer.Option(
        help="imagenet, cifar10, imagenet-caffe, unit or raw (default: unit for 8-bit images, else raw).")] = None
    mean: Annotated[str | None, typer.Option(help="Per channel, after --scale: .485,.456,.406")] = None
    std: Annotated[str | None, typer.Option(help="Per channel, after --scale: .229,.224,.225")] = None
    scale: Annotated[str | None, typer.Option(help="Factor on 0..255 pixels: 1/255")] = None
    resize: Annotated[str | None, typer.Option(help="Short side in pixels, or HEIGHTxWIDTH.")] = None
    crop: Annotated[str | None, typer.Option(help="Centre crop: side in pixels, or HEIGHTxWIDTH.")] = None
    layout: Annotated[str | None, typer.Option(help="What the model takes: auto, nchw or nhwc.")] = None
    channel_order: Annotated[str | None, typer.Option(help="What the model takes: rgb or bgr.")] = None

    def preprocessing(self) -> Preprocess:
        """Preset and overrides.

        Raises:
            OptionError: a text is malformed, or the values make no sense.
        """
        from onnxslim1x1.runtime.preprocess import preprocess

        readers: dict[str, Callable[[str, str], Any]] = {
            "mean": parse_floats, "std": parse_floats, "scale": parse_fraction, "resize": parse_size,
            "crop": parse_size}
        texts = {name: getattr(self, name) for name in (*readers, "layout", "channel_order")}
        values = {name: readers[name](f"--{name}", text) if name in readers else text
                  for name, text in texts.items() if text is not None}
        return preprocess(self.preprocess, **values)

    def other(self, path: Path | None, labels: Path | None = None) -> DataOptions | None:
        """The same treatment for the images at a path, or None without any.

        Raises:
            OptionError: a malformed text.
        """
        from onnxslim1x1.runtime.options import DataOptions

        prep = self.preprocessing()
        if path is None:
            return None
        return DataOptions(path=path, labels=labels, preprocess=prep, limit=self.limit)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFlags(ImageFlags):
    """Which images to compare on, and what is done to them."""

    data: Annotated[Path | None, typer.Option(
        help="Images to compare on: a folder, .npy or .npz (random inputs without it).")] = None
    labels: Annotated[Path | None, typer.Option(
        help="Class indices for --data: a CSV with file,label, .npy or .npz.")] = None

    def options(self) -> DataOptions | None:
        """Where inputs to compare on come from, or None.

        Raises:
            OptionError: labels without data, or a malformed text.
        """
        if self.data is None and self.labels is not None:
            raise OptionError(f"--labels {self.labels}: labels need the images they belong to; give --data")
        return self.other(self.data, self.labels)


@dataclass(frozen=True, kw_only=True, slots=True)
class BudgetFlags:
    """How far a rewrite may go."""

    max_error: Annotated[float | None, typer.Option(
        help="Largest relative output error per layer, of the weights without --calibration "
             "(default: 0.1 with calibration data, 0.05 without).")] = None
    target_macs: Annotated[float | None, typer.Option(
        help="Fraction of the model's MACs to keep, such as 0.67.")] = None
    target_params: Annotated[float | None, typer.Option(
        help="Fraction of the layers' parameters to keep, such as 0.5.")] = None
    target_speedup: Annotated[float | None, typer.Option(
        help="Speed-up to reach, as measured on this machine, such as 1.5.")] = None
    max_drop: Annotated[float | None, typer.Option(
        help="Top-1 accuracy that may be lost (0.01 is one point), judged on calibration images that are held out, and "
             "a gate of the final comparison (without labels: of the part of images whose class changes). "
             "Default with --calibration and no target: 0.01.")] = None
    rank: Annotated[list[str] | None, typer.Option(help="Explicit rank: LAYER=R; repeatable.")] = None
    include: Annotated[list[str] | None, typer.Option(
        help="Shell pattern of layers that may change; repeatable.")] = None
    exclude: Annotated[list[str] | None, typer.Option(
        help="Shell pattern of layers that may not; repeatable.")] = None

    def budget(self) -> Budget:
        """As a value of the API.

        Raises:
            OptionError: a text is malformed, or a number out of range.
        """
        from onnxslim1x1.search.plan import Budget

        return Budget(max_error=self.max_error, target_macs=self.target_macs, target_params=self.target_params,
                      target_speedup=self.target_speedup, max_drop=self.max_drop, ranks=parse_ranks(self.rank or []),
                      include=tuple(self.include or ()), exclude=tuple(self.exclude or ()))


@dataclass(frozen=True, kw_only=True, slots=True)
class ExploreFlags:
    """Whether to look at what speed costs before deciding."""

    explore: Annotated[bool, typer.Option(
        "--explore", help="Decide nothing: print what every speed-up costs (the Pareto front), and write no file but "
                          "--plot.")] = False
    plot: Annotated[Path | None, typer.Option(
        help="With --explore: draw the front into this file, .svg, .png or .pdf.")] = None

    def output(self, path: Path | None, *given: str, **others: object) -> Path | None:
        """The file to write, or None where the front is to be printed.

        Args:
            path: as it was given.
            given: options that were given and make no sense with --explore.
            others: values of further ones by name, false where they were not given.

        Raises:
            OptionError: options contradict each other, or there is no file to write.
        """
        named = (f"--{name.replace('_', '-')}" for name, value in {"output": path, **others}.items() if value)
        if self.explore and (against := next(chain(named, given), None)):
            raise OptionError(f"{against}: contradicts --explore, which decides nothing and writes no model; drop one "
                              "of the two")
        if self.plot and not self.explore:
            raise OptionError(f"--plot {self.plot}: draws what --explore finds; give that, too")
        if path is None and not self.explore:
            raise OptionError("--output: missing; name the file to write with -o, or look at what there is to choose "
                              "from with --explore")
        return path


@dataclass(frozen=True, kw_only=True, slots=True)
class PromiseFlags:
    """Promises that the rewritten model must keep."""

    min_agreement: Annotated[float | None, typer.Option(
        help="Gate: part of images with the same class at least.")] = None
    min_snr: Annotated[float | None, typer.Option(
        help="Gate: signal-to-noise ratio of the worst output at least, in dB.")] = None
    min_speedup: Annotated[float | None, typer.Option(help="Gate: measured speed-up at least.")] = None
    gate: GateOption = None
    time: Annotated[float, typer.Option(help="Seconds for measuring the latency.", min=0.1)] = 5.0

    @property
    def given(self) -> tuple[str, ...]:
        """Options of the promises that were made."""
        return tuple(f"--{name.replace('_', '-')}" for name in ("max_drop", *GATES)
                     if getattr(self, name, None) not in (None, []))

    def settings(self) -> ValidationSettings:
        """As a value of the API.

        Raises:
            OptionError: a bound makes no sense.
        """
        from onnxslim1x1.runtime.benchmark import BenchmarkSettings
        from onnxslim1x1.runtime.validate import Tolerance, ValidationSettings
        from onnxslim1x1.runtime.verdict import Bound

        tolerance = Tolerance(max_drop=getattr(self, "max_drop", None), min_agreement=self.min_agreement,
                              min_snr_db=self.min_snr, min_speedup=self.min_speedup,
                              figures=Bound.parsed(self.gate))
        return ValidationSettings(tolerance=tolerance, benchmark=BenchmarkSettings(budget_s=self.time))


@dataclass(frozen=True, kw_only=True, slots=True)
class GateFlags(PromiseFlags):
    """Promises about two models, accuracy included."""

    max_drop: Annotated[float | None, typer.Option(
        help="Gate: top-1 drop at most (0.01 is one point); without labels, the part of images whose class "
             "changes.")] = None
