"""The folders that experiments and runs are kept in: their layout, reading, checkpoints, provenance and results.

No other module spells the name of a file in them.
"""

from zoo.runs.layout import SELECTION_RUN, ExperimentFolder, RunFolder
from zoo.runs.reading import Embeddings, SavedRun, open_run, read_embeddings, run_folders

__all__ = [
    "SELECTION_RUN",
    "Embeddings",
    "ExperimentFolder",
    "RunFolder",
    "SavedRun",
    "open_run",
    "read_embeddings",
    "run_folders",
]
