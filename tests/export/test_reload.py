"""Several indexes in one process, and loading again and again."""

import gc

import numpy as np
import pytest
from export_helpers import clustered, run_python

import export

SIZE, DIM = 60_000, 64


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two trees over different galleries of equal shape, and a larger hashed index."""
    base = tmp_path_factory.mktemp("models")
    found = {}
    for name, seed in (("first", 1), ("second", 2)):
        rows = clustered(3000, 24, seed)
        index = export.IndexSpec("tree", options={"leaves": 40, "leaves_to_search": 8})
        gallery = export.Gallery(rows, [f"{name} {row}" for row in range(3000)])
        found[name] = (export.build_model(base / name, gallery, index=index), rows)
    rows = clustered(SIZE, DIM)
    gallery = export.Gallery(rows, [str(row) for row in range(SIZE)])
    found["large"] = (
        export.build_model(
            base / "large",
            gallery,
            index=export.IndexSpec("hashing", calibrate=False),
            options=export.BuildOptions(queries=rows[:20]),
        ),
        rows,
    )
    return found


def test_indexes_never_answer_for_each_other(folders):
    (first_path, first_rows), (second_path, second_rows) = folders["first"], folders["second"]

    def check(model, rows, name):
        result = model.search_embeddings(rows[::300], 1)
        assert result.ids[:, 0].tolist() == [f"{name} {row}" for row in range(0, 3000, 300)]

    first, second = export.load(first_path), export.load(second_path)
    again = export.load(first_path)
    twin = export.load(second_path, exact=True)
    for _ in range(2):
        check(first, first_rows, "first")
        check(second, second_rows, "second")
        check(again, first_rows, "first")
        check(twin, second_rows, "second")
    # Unloading one leaves the others alone, even one of the same index.
    del first
    gc.collect()
    check(again, first_rows, "first")
    check(second, second_rows, "second")
    del second
    gc.collect()
    check(export.load(second_path), second_rows, "second")
    check(again, first_rows, "first")


CYCLES = """
import gc, sys
import numpy as np, psutil
import export
path, cycles = sys.argv[1], int(sys.argv[2])
query = np.load(sys.argv[3])
process = psutil.Process()
wanted = None
for cycle in range(cycles):
    model = export.load(path)
    found = model.search_embeddings(query, 5).indices
    assert wanted is None or (found == wanted).all()
    wanted = found
    del model
    gc.collect()
    print(process.memory_info().rss, flush=True)
"""


def test_memory_levels_off_over_reloads(folders, tmp_path):
    """The index holds 15 MB of vectors and more: a leak of it would show as 90 MB over the last six cycles."""
    path, rows = folders["large"]
    np.save(tmp_path / "query.npy", rows[:4])
    output = run_python("-c", CYCLES, path, 14, tmp_path / "query.npy").stdout
    memory = np.array([int(line) for line in output.split()]) / 1e6
    assert len(memory) == 14
    assert memory[-3:].min() - memory[5:8].min() < 30, memory
