"""Data-free spatial SVD with greedy compression ratios per layer: the recipe of Qualcomm's AIMET.

Sources: the AIMET documentation ("Greedy compression ratio selection", "Spatial SVD", "Rank rounding") and Kuzmin et
al. 2019, "Taxonomy and evaluation of structured compression of convolutional neural networks". Kernels become Kx1 and
1xK by SVD of the weights (Jaderberg et al. 2014). For every layer and each ratio 0.1, 0.2, ..., 0.9 of compressed to
original MACs the whole model is evaluated with only that layer compressed. The final ratio of a layer is the strongest
before its score first falls below a threshold that all layers share; the threshold is found by binary search so that
the budget is met. Ranks are rounded up to multiples of the step.

Two differences, both in the baseline's favour: AIMET lets the user bring an evaluation function, usually the accuracy
on labelled images. No labels are used here, so the score is -KL(original || compressed) on calibration images, which
is far less noisy. And rounded ranks are evaluated as they are, where AIMET interpolates between its ratios.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from onnxslim1x1.graph.layers import Layer
from onnxslim1x1.runtime.loss import HeldOutLoss
from onnxslim1x1.strategies import Decomposition, Strategy, by_name
from onnxslim1x1.strategies.base import chain_cost

from .problem import Choice, Factors, Option, Problem, steps
from .search import highest, require

RATIOS = tuple(i / 10 for i in range(1, 10))
_JUDGED = 128  # images per evaluation: a hundred evaluations per model must stay affordable


def choose(problem: Problem, step: int) -> Choice:
    """Ratios by one threshold on the measured score.

    Raises:
        InfeasibleBudget: the strongest ratios still cost too much.
    """
    options = {layer.name: options_of(problem, layer, step) for layer in problem.layers}
    require(problem, {name: found[-1] for name, found in options.items() if found})  # before the evaluations
    judge = HeldOutLoss(problem.model, problem.images(_JUDGED), threads=problem.run.threads)
    with TemporaryDirectory(prefix="compression-") as folder:
        along = judge.along(problem.model, Path(folder))  # runs only what is behind the layer
        scored = {layer.name: [replace(o, score=-along(problem.build({layer.name: o}), layer))
                               for o in options[layer.name]] for layer in problem.layers}

    def at(threshold: float) -> dict[str, Option]:
        picks = {name: strongest(found, threshold) for name, found in scored.items()}
        return {name: option for name, option in picks.items() if option is not None}

    return highest(problem, [-float("inf"), *(o.score for found in scored.values() for o in found)], at)


def strongest(found: Sequence[Option], threshold: float) -> Option | None:
    """The last option, from mild to strong, before the score first falls below the threshold."""
    best = None
    for option in found:
        if option.score < threshold:
            break
        best = option
    return best


def options_of(problem: Problem, layer: Layer, step: int) -> list[Option]:
    """One option per ratio, mild ones first, none twice; not scored yet."""
    strategy = by_name("spatial")
    if strategy.check(layer.spec) is not None:
        return []
    decomposed = strategy.decompose(layer.spec, problem.weight(layer), problem.bias(layer))
    return [Option(layer=layer.name, what=f"spatial {rank}", score=0.0,
                   macs=chain_cost(strategy.chain(layer.spec, (rank,))).macs,
                   build=partial(_truncated, decomposed, rank))
            for rank in ranks(strategy, layer, step)]


def ranks(strategy: Strategy, layer: Layer, step: int) -> list[int]:
    """Ranks of the ratios, rounded up to the step, largest first; those that save nothing are left out."""
    costs = {r: chain_cost(strategy.chain(layer.spec, (r,))).macs for r in steps(strategy, layer.spec, 1)}
    wanted = [max((r for r, macs in costs.items() if macs <= ratio * layer.spec.cost.macs), default=1)
              for ratio in RATIOS]
    found = {-(-rank // step) * step for rank in wanted}
    return sorted(found & costs.keys(), reverse=True)


def _truncated(decomposed: Decomposition, rank: int) -> Factors:
    return decomposed.truncate((rank,)).factors
