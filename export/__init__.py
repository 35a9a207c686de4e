"""From a trained encoder to a retrieval service: index, SavedModel, server.

Heavy imports wait for the call that needs them, so `import export` is cheap.
"""

from export.build import build_model
from export.gallery import Gallery
from export.index_settings import IndexSettings
from export.search_model import SearchModel, load
from export.search_result import SearchResult

__all__ = ["Gallery", "IndexSettings", "SearchModel", "SearchResult", "build_model", "load"]
