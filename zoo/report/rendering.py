"""Turns computed sections into a page, by the templates in `templates/`."""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jinja2
from markupsafe import Markup

from zoo.report.charts import number
from zoo.report.sections import Section


@dataclasses.dataclass(frozen=True, eq=False)
class Page:
    """A page.

    Args:
        title: Its heading.
        sections: What is on it, in order.
    """

    title: str
    sections: Sequence[Section]


def render(page: Page) -> str:
    """The page as one HTML file that loads nothing from elsewhere."""
    environment = _environment()
    style, script = (Markup(_source(environment, name)) for name in ("page.css", "page.js"))
    return environment.get_template("page.html").render(page=page, style=style, script=script)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("zoo.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(percent=_percent, number=number, count=_count, points=_points)
    environment.tests["nan"] = math.isnan
    return environment


def _source(environment: jinja2.Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _percent(share: float, digits: int = 1) -> str:
    return "-" if math.isnan(share) else f"{share:.{digits}%}"


def _points(share: float) -> str:
    """A difference of shares in points, with its sign."""
    return "-" if math.isnan(share) else f"{100 * share:+.1f}"


def _count(value: int) -> str:
    return f"{value:,}"
