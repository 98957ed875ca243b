"""How to run a model and where its inputs come from: options that travel together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from onnxslim1x1.graph.model import Model
from onnxslim1x1.graph.shapes import Shapes, infer_shapes
from onnxslim1x1.runtime.store import Store, user_store

if TYPE_CHECKING:
    from onnxslim1x1.runtime.data import Dataset
    from onnxslim1x1.runtime.preprocess import Preprocess

StageProgress = Callable[[str, float], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """How models are run.

    Attributes:
        threads: intra-op threads; 0 leaves the choice to onnxruntime.
        provider: execution provider, or None for the CPU.
        input_shapes: concrete shapes by input name.
        dims: sizes of named free dimensions.
        seed: of random inputs and of sampled statistics.
        progress: is told the stage and the fraction of it that is done.
        store: where statistics and measured times are kept for the next run; `NO_STORE` keeps none.
    """

    threads: int = 0
    provider: str | None = None
    input_shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    dims: Mapping[str, int] = field(default_factory=dict)
    seed: int = 0
    progress: StageProgress | None = None
    store: Store = field(default_factory=user_store)

    def shapes(self, model: Model) -> Shapes:
        """Shapes of a model under these options.

        Raises:
            OptionError: a shape does not fit the model.
            ModelError: an input has no shape at all.
        """
        return infer_shapes(model, input_shapes=self.input_shapes, dims=self.dims)

    def stage(self, name: str) -> Callable[[float], None] | None:
        """Progress of one stage."""
        told = self.progress
        return None if told is None else lambda done: told(name, done)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataOptions:
    """Where real inputs come from.

    Attributes:
        path: folder of images, .npy or .npz.
        labels: .csv, .npy or .npz with class indices, or None.
        preprocess: what is done to the images, or None for the default of `preprocess`.
        limit: how many images at most, evenly spread.
    """

    path: Path
    labels: Path | None = None
    preprocess: Preprocess | None = None
    limit: int | None = None

    def open(self, model: Model, shapes: Shapes) -> Dataset:
        """The data as feeds for a model.

        Raises:
            DataError: it cannot be used, or does not fit the model.
            OptionError: the limit is not positive, or the preprocessing contradicts itself.
        """
        from onnxslim1x1.runtime.data import load_dataset
        from onnxslim1x1.runtime.inputs import model_inputs
        from onnxslim1x1.runtime.preprocess import preprocess

        return load_dataset(self.path, preprocess=self.preprocess or preprocess(), labels=self.labels,
                            inputs=model_inputs(model, shapes), limit=self.limit)
