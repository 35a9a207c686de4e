"""The rendered letters: counts, scripts, look-alikes, the cache."""

import unicodedata

import numpy as np
import pytest

from keras_dml.data import load
from keras_dml.data.benchmarks import glyphs
from keras_dml.evaluation import class_folds


@pytest.fixture(scope="module")
def benchmark():
    return load("glyphs")


def letters(split):
    return [name[-1] for name in split.class_names]


def test_sides(benchmark):
    train, test = benchmark.train, benchmark.test
    assert train.images.dtype == np.uint8
    assert train.images.shape[1:] == test.images.shape[1:] == (28, 28, 1)
    assert {unicodedata.name(letter).split()[0] for letter in letters(train)} == {"LATIN"}
    assert {unicodedata.name(letter).split()[0] for letter in letters(test)} == {
        "GREEK",
        "CYRILLIC",
        "ARMENIAN",
        "GEORGIAN",
    }
    for split, classes in ((train, 600), (test, 400)):
        assert split.num_classes > classes
        assert np.bincount(split.labels).min() >= 4
        # Every image has ink, and none is cut off at the border.
        assert split.images.reshape(len(split), -1).max(axis=1).min() > 100
    assert train.ids[0].startswith(f"U+{ord(letters(train)[train.labels[0]]):04X}-DejaVu")


def test_look_alikes_are_on_one_side_only(benchmark):
    trained, unseen = set(letters(benchmark.train)), set(letters(benchmark.test))
    # Code points of Greek, Cyrillic and Armenian letters that look like these.
    for latin, others in {"A": (0x391, 0x410), "B": (0x392, 0x412), "o": (0x3BF, 0x43E, 0x585), "p": (0x440,)}.items():
        assert latin in trained
        assert not unseen & {chr(other) for other in others}, latin
    # Within a script as well.
    assert ("I" in trained) != ("l" in trained)


def test_the_rule_for_look_alikes(benchmark):
    """With loops, on a few faces: no two letters that were kept differ by less than the rule asks for in a face."""
    rng = np.random.default_rng(0)
    drawn = glyphs._draw(glyphs._font_files()[:2])
    kept = {ord(letter) for letter in letters(benchmark.train) + letters(benchmark.test)}
    for face in (0, 1):
        rows = [row for row in np.flatnonzero(drawn.faces == face) if int(drawn.letters[row]) in kept]
        for first in rng.choice(rows, 40, replace=False):
            a = drawn.centered[first].astype(float)
            for second in rows:
                if second == first:
                    continue
                b = drawn.centered[second].astype(float)
                difference = np.sum((a - b) ** 2) / max(np.sum(a**2), np.sum(b**2))
                assert difference >= glyphs.LOOK_ALIKE * 0.999, (first, second)


def test_forms_of_a_letter_are_held_out_together(benchmark):
    names = [unicodedata.name(letter).partition(" WITH ")[0] for letter in letters(benchmark.train)]
    *_, fold = class_folds(benchmark.train.labels, 5)
    held_out = {names[label] for label in fold.validation_classes}
    others = {names[label] for label in range(len(names)) if label not in fold.validation_classes}
    # Classes are cut into parts by number, so one family may be on both sides of the cut.
    assert len(held_out & others) <= 1
    assert len(held_out) > 20


def test_origin_and_cache(benchmark, tmp_path, monkeypatch):
    assert len(benchmark.identity["fonts"]) == len(glyphs.FACES)
    assert len(benchmark.identity["pixels"]) == 64
    monkeypatch.setenv("KERAS_DML_CACHE", str(tmp_path / "cache"))
    assert load("glyphs").identity == benchmark.identity
    (file,) = (tmp_path / "cache" / "glyphs").iterdir()
    monkeypatch.setattr(glyphs, "_make", lambda files: pytest.fail("made again"))
    assert load("glyphs").identity == benchmark.identity
    monkeypatch.undo()
    monkeypatch.setenv("KERAS_DML_CACHE", str(tmp_path / "cache"))
    # A damaged file is made again: one byte in the middle of the pixels.
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 1
    file.write_bytes(content)
    assert load("glyphs").identity == benchmark.identity
    # Nowhere to keep it.
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KERAS_DML_CACHE", str(tmp_path / "file" / "cache"))
    assert load("glyphs").identity == benchmark.identity


def test_ignored_options_and_missing_fonts(monkeypatch, tmp_path):
    with pytest.warns(UserWarning, match="/somewhere is ignored"):
        load("glyphs", "/somewhere")
    monkeypatch.setattr("matplotlib.get_data_path", lambda: str(tmp_path))
    with pytest.raises(FileNotFoundError, match="install matplotlib from PyPI"):
        load("glyphs")
