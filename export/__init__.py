"""From a trained encoder to a retrieval service: index, SavedModel, server.

Names are imported when first used, so that `import export` and `python -m export.build --help` are quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from export.build import build_model
    from export.build_options import BuildOptions
    from export.deprecated import IndexSettings
    from export.gallery import Gallery
    from export.index.spec import IndexSpec
    from export.search_model import SearchModel, load
    from export.search_result import SearchResult
    from export.update import update_model

_MODULES = {
    "BuildOptions": "export.build_options",
    "Gallery": "export.gallery",
    "IndexSettings": "export.deprecated",
    "IndexSpec": "export.index.spec",
    "SearchModel": "export.search_model",
    "SearchResult": "export.search_result",
    "build_model": "export.build",
    "load": "export.search_model",
    "update_model": "export.update",
}

__all__ = [
    "BuildOptions",
    "Gallery",
    "IndexSettings",
    "IndexSpec",
    "SearchModel",
    "SearchResult",
    "build_model",
    "load",
    "update_model",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'export' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
