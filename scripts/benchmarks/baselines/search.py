"""Searches for the mildest choice within a budget, by a threshold or a multiplier that all layers share."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from onnxslim1x1.errors import InfeasibleBudget

from .problem import Choice, Option, Options, Problem

_HALVINGS = 100


def require(problem: Problem, choice: Choice) -> Choice:
    """The choice, if it meets the budget.

    Raises:
        InfeasibleBudget: it does not.
    """
    if not problem.meets(choice):
        raise InfeasibleBudget(f"{problem.macs(choice):,} MACs are left, {problem.most:,} are allowed")
    return choice


def highest(problem: Problem, levels: Iterable[float], choose: Callable[[float], Choice]) -> Choice:
    """Choice at the highest level that meets the budget; MACs must not fall as the level rises.

    Raises:
        InfeasibleBudget: not even the lowest level does.
    """
    tried = sorted(set(levels))
    best = require(problem, choose(tried[0]))
    low, high = 0, len(tried) - 1
    while low < high:
        middle = (low + high + 1) // 2
        choice = choose(tried[middle])
        if problem.meets(choice):
            low, best = middle, choice
        else:
            high = middle - 1
    return best


def bisect(problem: Problem, low: float, high: float, choose: Callable[[float], Choice]) -> Choice:
    """The same for a continuous level in [low, high].

    Raises:
        InfeasibleBudget: not even `low` meets the budget.
    """
    best, top = require(problem, choose(low)), choose(high)
    if problem.meets(top):
        return top
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        choice = choose(middle)
        if problem.meets(choice):
            low, best = middle, choice
        else:
            high = middle
    return best


def cheapest(found: Iterable[Option], least: float) -> Option | None:
    """The option with fewest MACs among those that score `least` or more."""
    return min((o for o in found if o.score >= least), key=lambda o: o.macs, default=None)


def fill(problem: Problem, choice: Choice, options: Options, whole: float) -> Choice:
    """Spend what is left of the budget: again and again the layer that gains most score per MAC is relaxed.

    `whole` is the score of a layer that is not rewritten.
    """
    current = dict(choice)
    own = {layer.name: layer.spec.cost.macs for layer in problem.layers}
    while True:
        left = problem.most - problem.macs(current)
        best: tuple[float, str, Option | None] | None = None
        for name, option in current.items():
            for other in (*options[name], None):
                macs, score = (own[name], whole) if other is None else (other.macs, other.score)
                more = macs - option.macs
                if 0 < more <= left and score > option.score:
                    gain = (score - option.score) / more
                    if best is None or gain > best[0]:
                        best = gain, name, other
        if best is None:
            return current
        if best[2] is None:
            del current[best[1]]
        else:
            current[best[1]] = best[2]
