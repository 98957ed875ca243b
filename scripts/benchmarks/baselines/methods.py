"""The table of methods: name, how it makes a model file, and whether it follows a budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from onnxslim1x1.errors import InfeasibleBudget
from onnxslim1x1.graph.save import save

from . import channel_svd, int8, ours, spatial_svd, tucker, whitened
from .job import Job
from .problem import Choice, Problem

ORIGINAL = "original"

Choose = Callable[[Problem, int], Choice]


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """One row of the table.

    Attributes:
        name: in the table and on the command line.
        make: writes the model of a job and returns a note for the table; None for the original.
        budgeted: whether it aims at a budget of MACs.
        quantised: whether MACs and parameters are those of the original, in another format.
    """

    name: str
    make: Callable[[Job], str] | None
    budgeted: bool = True
    quantised: bool = False


def low_rank(choose: Choose, step: int | None, job: Job) -> str:
    """Make a model by choosing ranks; `step` None takes the channel block, and finer steps where that cannot do.

    A budget that no ranks in multiples of the block meet (narrow layers have none that save anything) is met with
    halves, quarters, ... of the block: better for the baseline than no row at all.
    """
    with job.images() as images:
        problem = Problem(Path(job.model), budget=job.budget, calibration=images, run=job.run)
        choice, used = solve(problem, choose, step or problem.block)
        save(problem.build(choice), Path(job.output))
    families = Counter(option.what.split()[0] for option in choice.values())
    note = ", ".join(f"{number} {family}" for family, number in sorted(families.items()))
    return note if used == (step or problem.block) else f"{note}; rank step {used}"


def solve(problem: Problem, choose: Choose, step: int) -> tuple[Choice, int]:
    """The choice and the step of its ranks.

    Raises:
        InfeasibleBudget: not even rank 1 everywhere meets the budget.
    """
    try:
        return choose(problem, step), step
    except InfeasibleBudget:
        if step == 1:
            raise
        return solve(problem, choose, step // 2)


def _int8(job: Job) -> str:
    with job.images() as images:
        int8.quantize(Problem(Path(job.model), calibration=images, run=job.run), Path(job.output))
    return "QDQ, per channel"


METHODS: tuple[Method, ...] = (
    Method(name=ORIGINAL, make=None, budgeted=False),
    Method(name="int8", make=_int8, budgeted=False, quantised=True),
    Method(name="tucker-evbmf", make=partial(low_rank, tucker.as_is, 1), budgeted=False),
    Method(name="svd", make=partial(low_rank, channel_svd.choose, None)),
    Method(name="spatial-greedy", make=partial(low_rank, spatial_svd.choose, None)),
    Method(name="tucker-scaled", make=partial(low_rank, tucker.scaled, None)),
    Method(name="whitened", make=partial(low_rank, whitened.choose, None)),
    # the same with all ranks to choose from: fewer MACs for the same error, but no fewer milliseconds
    Method(name="svd-any", make=partial(low_rank, channel_svd.choose, 1)),
    Method(name="spatial-greedy-any", make=partial(low_rank, spatial_svd.choose, 1)),
    Method(name="tucker-scaled-any", make=partial(low_rank, tucker.scaled, 1)),
    Method(name="whitened-any", make=partial(low_rank, whitened.choose, 1)),
    Method(name=ours.OURS, make=ours.slim),
    *(Method(name=label, make=partial(ours.carry_out, edit=edit)) for label, edit in ours.ABLATION),
)


def by_name(name: str) -> Method:
    """Look a method up.

    Raises:
        KeyError: there is none of that name.
    """
    return {method.name: method for method in METHODS}[name]
