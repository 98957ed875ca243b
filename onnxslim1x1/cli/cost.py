"""`onnxslim1x1 cost`: the arithmetic of the idea."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from onnxslim1x1.cli.groups import grouped
from onnxslim1x1.cli.options import OutputFlags
from onnxslim1x1.cli.output import print_json, print_report
from onnxslim1x1.cli.parsing import parse_sizes


@dataclass(frozen=True, kw_only=True, slots=True)
class GeometryFlags:
    """A convolution."""

    input: Annotated[str, typer.Option(help="Input, HEIGHTxWIDTHxCHANNELS: 14x14x480", show_default=False)]
    filters: Annotated[int, typer.Option(help="Output channels.", min=1, show_default=False)]
    kernel: Annotated[str, typer.Option(help="Kernel size: 5 or 5x3.")] = "3"
    stride: Annotated[str, typer.Option(help="1 or 2x1.")] = "1"
    padding: Annotated[str, typer.Option(help="same, valid, or pixels on each side: 2 or 2x1.")] = "same"
    dilation: Annotated[str, typer.Option(help="1 or 2x1.")] = "1"
    bias: Annotated[bool, typer.Option("--bias", help="Count biases as parameters.")] = False


@grouped
def command(
    *, shape: GeometryFlags,
    reduce: Annotated[list[str] | None, typer.Option(
        help="Channels after the 1x1 reduction; repeat, or join by commas, for a table.", show_default=False)] = None,
    out: OutputFlags,
) -> None:
    """Cost of a convolution, and of a 1x1 reduction in front of it; no model needed.

    Example: onnxslim1x1 cost --input 14x14x480 --filters 48 --kernel 5 --reduce 16
    """
    from onnxslim1x1.report.cost import cost_json, cost_report, cost_rows, geometry

    sizes = {name: parse_sizes(f"--{name}", getattr(shape, name)) for name in ("kernel", "stride", "dilation")}
    spec = geometry(parse_sizes("--input", shape.input), shape.filters, padding=shape.padding, bias=shape.bias, **sizes)
    rows = cost_rows(spec, [int(r) for text in reduce or [] for r in parse_sizes("--reduce", text)])
    if out.json:
        print_json(cost_json(spec, rows))
    else:
        print_report(*cost_report(spec, rows))
