"""Pages that open anywhere and load nothing: the templates in templates/, filled in. What is on a page is not here.

All text is escaped by the template engine, and every page forbids itself all connections.
"""

from __future__ import annotations

from datetime import datetime
from importlib.resources import files
from typing import Any

from zhixing.version import __version__


def render(template: str, content: dict[str, Any]) -> str:
    """Returns a page as HTML.

    Args:
        template: Its file in templates/, which extends page.html.
        content: What it shows, with at least `name` and `language`.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("zhixing.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates = files("zhixing.evaluation").joinpath("templates")
    shared = {
        "version": __version__,
        "written": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        "style": templates.joinpath("page.css").read_text(encoding="utf-8"),
        "script": templates.joinpath("page.js").read_text(encoding="utf-8"),
    }
    page = environment.get_template(template).render({**shared, **content})
    # What was recorded may hold half a character (a lone surrogate), which no UTF-8 file can.
    return page.encode("utf-8", "replace").decode("utf-8")
