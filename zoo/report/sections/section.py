"""What all sections have in common."""

import dataclasses
from typing import ClassVar


@dataclasses.dataclass(frozen=True, eq=False)
class Section:
    """What a section shows, computed; its template (`templates/sections/KEY.html`) says how."""

    key: ClassVar[str]
    """Its id in the page, and the name of its template."""
    heading: ClassVar[str]
