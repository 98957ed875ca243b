"""How pages are made: one file that needs nothing else, neither network nor another file.

Tables and text are written here by jinja2, plots by bokeh; a short script of ours sorts, searches and selects. A policy
in the page itself forbids the browser to fetch anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxslim1x1.errors import OptionError

if TYPE_CHECKING:
    from bokeh.models import LayoutDOM

_WEB = Path(__file__).parent / "web"


def require_bokeh(option: str) -> None:
    """Fail before the work rather than after it.

    Raises:
        OptionError: bokeh, which draws the plots, is missing.
    """
    try:
        import bokeh  # noqa: F401
        import jinja2  # noqa: F401
    except ImportError as error:
        raise OptionError(f"{option}: a page needs bokeh ({error}); pip install 'onnxslim1x1[report]'") from error


def rendered(name: str, values: Mapping[str, Any], *, plots: Mapping[str, LayoutDOM | None],
             data: Mapping[str, Any]) -> str:
    """A page from a template beside the others in ``web``.

    Args:
        name: of the template, which extends ``base.html.jinja``.
        values: what it says.
        plots: by the name that the template calls them; None for what is not drawn.
        data: what the script selects from: ``rows``, ``first`` and ``colors``.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = Environment(loader=FileSystemLoader(_WEB), autoescape=True, undefined=StrictUndefined,
                            trim_blocks=True, lstrip_blocks=True)
    drawn = {name: _embedded(_item(plot, name)) if plot else "" for name, plot in plots.items()}
    return templates.get_template(name).render(
        {**values, "plots": drawn}, style=(_WEB / "page.css").read_text(encoding="utf-8"),
        script=(_WEB / "page.js").read_text(encoding="utf-8"), bokeh=_bokeh_script(), data=_embedded(data))


def _item(plot: LayoutDOM, name: str) -> Any:
    from bokeh.embed import json_item

    return json_item(plot, target=f"plot-{name}")  # type: ignore[arg-type]  # the name of an element


def _embedded(value: Any) -> str:
    """JSON for a script element: in ASCII, and nothing in it can end the element."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _bokeh_script() -> str:
    from bokeh.resources import Resources

    return Resources(mode="inline", components=["bokeh"], minified=True).render_js()
