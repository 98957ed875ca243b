"""The arithmetic of 1x1 reductions as a table and as JSON."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from onnxslim1x1.errors import OptionError
from onnxslim1x1.report.document import document
from onnxslim1x1.report.format import shape
from onnxslim1x1.report.style import NARROW, Table, named_table
from onnxslim1x1.search.candidates import break_even
from onnxslim1x1.spec import ConvSpec, Cost, Ints
from onnxslim1x1.strategies import by_name
from onnxslim1x1.strategies.base import chain_cost

_REDUCE = by_name("reduce")


@dataclass(frozen=True, kw_only=True, slots=True)
class CostRow:
    """A reduction to `rank` channels: the cost of the 1x1 and of the KxK behind it."""

    rank: int
    pointwise: Cost
    kernel: Cost

    @property
    def total(self) -> Cost:
        """Both convolutions together."""
        return self.pointwise + self.kernel


def geometry(sizes: Ints, filters: int, *, kernel: Ints, stride: Ints, dilation: Ints, padding: str,
             bias: bool) -> ConvSpec:
    """Spec of the convolution that the options describe.

    Raises:
        OptionError: the sizes contradict each other, or nothing is left of the output.
    """
    if len(sizes) < 2:
        raise OptionError(f"--input {shape(sizes)}: give sizes and channels, such as 14x14x480")
    axes = len(sizes) - 1
    spread = {name: _spread(f"--{name}", values, axes)
              for name, values in (("kernel", kernel), ("stride", stride), ("dilation", dilation))}
    known = {"same": {"auto_pad": "SAME_UPPER"}, "valid": {}}
    pads: dict[str, Any] = known[padding] if padding in known else {"pads": _pads(padding, axes)}
    try:
        spec = ConvSpec.make(sizes[-1], filters, in_size=sizes[:-1], bias=bias, **spread, **pads)
    except ValueError as error:
        raise OptionError(f"cost: {error}") from error
    if min(spec.out_size or (0,)) < 1:
        raise OptionError(f"cost: a {shape(spec.kernel)} kernel does not fit into {shape(sizes[:-1])} with padding "
                          f"{padding}; use --padding same")
    return spec


def cost_rows(spec: ConvSpec, ranks: Sequence[int]) -> tuple[CostRow, ...]:
    """Cost at each rank.

    Raises:
        RankError: a rank is out of range.
    """
    rows = []
    for rank in ranks:
        first, second = _REDUCE.chain(spec, (rank,))
        rows.append(CostRow(rank=rank, pointwise=chain_cost((first,)),
                            kernel=chain_cost((replace(second, bias=spec.bias),))))
    return tuple(rows)


def cost_report(spec: ConvSpec, rows: Sequence[CostRow]) -> tuple[str | Table, ...]:
    """What the command prints."""
    out = shape((*(spec.out_size or ()), spec.out_channels))
    head = (f"{shape(spec.kernel)} convolution {shape((*(spec.in_size or ()), spec.in_channels))} -> {out}: "
            f"{spec.cost.macs:,} MACs, {spec.params:,} parameters")
    limit = f"break-even rank: {break_even(_REDUCE, spec)} (up to it the 1x1 reduction saves MACs)"
    if not rows:
        return head, limit
    cells = [(str(row.rank), f"{row.pointwise.macs:,}", f"{row.kernel.macs:,}", f"{row.total.macs:,}",
              f"{spec.cost.macs / row.total.macs:.2f}x", f"{row.total.params:,}",
              f"{spec.params / row.total.params:.2f}x") for row in rows]
    headers = ("rank", "1x1 MACs", f"{shape(spec.kernel)} MACs", "total MACs", "fewer", "parameters", "fewer")
    fits = sum(max(len(row[i]) for row in (headers, *cells)) + 2 for i in range(len(headers))) <= NARROW
    shown = [i for i, header in enumerate(headers) if fits or header != "fewer"]
    table = named_table([headers[i] for i in shown], [[row[i] for i in shown] for row in cells])
    return head, table, limit


def cost_json(spec: ConvSpec, rows: Sequence[CostRow]) -> dict[str, Any]:
    """The same as data."""
    def entry(cost: Cost) -> dict[str, int]:
        return {"macs": cost.macs, "params": cost.params}

    return document("cost", {
        "direct": entry(spec.cost), "break_even_rank": break_even(_REDUCE, spec),
        "out_shape": [*(spec.out_size or ()), spec.out_channels],
        "reductions": [
            {"rank": row.rank, "pointwise": entry(row.pointwise), "kernel": entry(row.kernel),
             "total": entry(row.total), "times_fewer_macs": spec.cost.macs / row.total.macs} for row in rows],
    })


def _spread(option: str, values: Ints, axes: int) -> Ints:
    if len(values) not in (1, axes) or min(values) < 1:
        raise OptionError(f"{option} {shape(values)}: give one positive number, or {axes} joined by x")
    return values * axes if len(values) == 1 else values


def _pads(text: str, axes: int) -> Ints:
    parts = text.replace(",", "x").split("x")
    if not all(re.fullmatch(r"\s*[0-9]+\s*", part) for part in parts) or len(parts) not in (1, axes):
        raise OptionError(f"--padding {text}: give same, valid, one number, or {axes} joined by x")
    each = tuple(int(p) for p in parts) * (axes if len(parts) == 1 else 1)
    return each + each
