"""What is done to every model before its layers are rewritten."""

from __future__ import annotations

from dataclasses import dataclass

from onnxslim1x1.graph.edit import GraphEdit
from onnxslim1x1.graph.fold import fold_batch_norm
from onnxslim1x1.graph.model import Model
from onnxslim1x1.graph.shapes import fed_inputs


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Prepared:
    """A model that is ready to be rewritten.

    Attributes:
        model: with normalizations folded and weights constant.
        folded: number of BatchNormalization nodes that were folded.
        frozen: number of weights that were also graph inputs, which keeps onnxruntime from optimising them.
    """

    model: Model
    folded: int
    frozen: int

    @property
    def notes(self) -> tuple[str, ...]:
        """One line per kind of change."""
        lines = []
        if self.folded:
            lines.append(f"folded {self.folded} BatchNormalization into the convolutions before them")
        if self.frozen:
            lines.append(f"{self.frozen} weights were also listed as graph inputs; they are constants now, "
                         "which lets onnxruntime optimise them")
        return tuple(lines)


def prepare(model: Model) -> Prepared:
    """Fold BatchNormalization and make weights that are also graph inputs constant.

    Raises:
        ModelError: weights cannot be read.
    """
    graph = model.proto.graph
    edit = GraphEdit(model)
    folded = fold_batch_norm(edit)
    # before IR version 4 every initializer had to be listed so, and could not be overridden
    frozen = len(graph.input) - len(fed_inputs(graph)) if model.proto.ir_version >= 4 else 0
    return Prepared(model=edit.result(), folded=folded, frozen=frozen)
