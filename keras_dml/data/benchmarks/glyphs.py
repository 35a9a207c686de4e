"""Letters of the fonts that matplotlib ships: Latin trains, four scripts are never seen; no download."""

import hashlib
import pathlib
import unicodedata
from typing import NamedTuple

import numpy as np

from keras_dml.data.array_cache import Arrays, cached
from keras_dml.data.benchmark import Benchmark
from keras_dml.data.loading import LoadOptions, register_benchmark, warn_ignored
from keras_dml.data.split import Split
from keras_dml.utils.files import sha256

FACES = (
    *("DejaVuSans", "DejaVuSans-Oblique", "DejaVuSans-Bold", "DejaVuSans-BoldOblique"),
    *("DejaVuSansMono", "DejaVuSansMono-Oblique", "DejaVuSansMono-Bold", "DejaVuSansMono-BoldOblique"),
    *("DejaVuSerif", "DejaVuSerif-Italic", "DejaVuSerif-Bold", "DejaVuSerif-BoldItalic"),
    *("STIXGeneral", "STIXGeneralItalic", "STIXGeneralBol", "STIXGeneralBolIta"),
)
TRAINED = "LATIN"
UNSEEN = ("GREEK", "CYRILLIC", "ARMENIAN", "GEORGIAN")
SIDE = 28
FINER = 4
"""Letters are drawn so many times larger, and averaged."""
EM, BASELINE = 0.6, 0.7
"""Size of the type, and height of the line it stands on below the top, as shares of the side."""
LEAST_FACES = 4
LOOK_ALIKE = 0.05
"""Two letters look alike whose images differ by less, see `_kept`."""
FORMAT = 1
"""To be counted up when other images would be made of the same fonts."""


class _Drawn(NamedTuple):
    """The letters of all faces, in rows."""

    letters: np.ndarray
    """`(n,)` code points."""
    faces: np.ndarray
    """`(n,)` rows of `FACES`."""
    placed: np.ndarray
    """`(n, SIDE, SIDE)` uint8, where type is set: on the line, in the middle of its width."""
    centered: np.ndarray
    """`(n, SIDE, SIDE)` uint8, the ink in the middle."""


@register_benchmark("glyphs")
def load_glyphs(options: LoadOptions) -> Benchmark:
    """Letters as classes, `SIDE` x `SIDE` gray images, ink 255 on 0; one image of a letter for each face that has it.

    The 16 faces are DejaVu's (Sans, Sans Mono, Serif) and STIX's. Letters are the characters of Unicode's categories
    Lu, Ll and Lo whose names begin with one of the scripts' and that are their own compatibility form (no ligatures).
    The Latin ones train; Greek, Cyrillic, Armenian and Georgian ones are the test classes. A letter is left out that
    fewer than four faces have, or that looks like a letter kept before it, scripts in the order above, then by code
    point: whose images, centered, differ in one face by less than 5 % of the larger one's sum of squares.

    Training classes come in a fixed random order of the letters that they are forms of (É is one of E), so that
    parts held out of them are of shapes that the others do not have.

    The images are made once, in a few seconds, and cached (`keras_dml.data.array_cache`). `Benchmark.origin` has the
    checksums of the fonts and of the pixels.

    Args:
        options: Ignored, with a warning where they are set.
    """
    warn_ignored(options, "glyphs is made from fonts")
    files = _font_files()
    fonts = {path.name: sha256(path) for path in files}
    made = cached(f"glyphs/{_key(fonts)}.npz", lambda: _make(files))
    pixels = hashlib.sha256(made["images"].tobytes()).hexdigest()
    scripts = np.array([_script(letter) for letter in made["letters"]])
    families = sorted({_family(letter) for letter in made["letters"]})
    place = dict(zip(families, np.random.default_rng(0).permutation(len(families)).tolist(), strict=True))

    def side(rows: np.ndarray, order: dict[str, int] | None = None) -> Split:
        letters = made["letters"][rows].tolist()
        known = sorted(set(letters), key=lambda letter: (0 if order is None else order[_family(letter)], letter))
        numbers = {letter: number for number, letter in enumerate(known)}
        return Split(
            made["images"][rows][..., None],
            [numbers[letter] for letter in letters],
            [f"{unicodedata.name(chr(letter))} {chr(letter)}" for letter in known],
            [f"U+{made['letters'][row]:04X}-{FACES[made['faces'][row]]}" for row in rows],
        )

    return Benchmark(
        "glyphs",
        train=side(np.flatnonzero(scripts == TRAINED), place),
        test=side(np.flatnonzero(scripts != TRAINED)),
        origin={"fonts": fonts, "pixels": pixels},
    )


def _font_files() -> list[pathlib.Path]:
    import matplotlib

    folder = pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    files = [folder / f"{face}.ttf" for face in FACES]
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"glyphs is made from fonts that matplotlib brings, and {folder} lacks {', '.join(missing)}. Some "
            "distributions leave them out: install matplotlib from PyPI (pip install matplotlib)"
        )
    return files


def _key(fonts: dict[str, str]) -> str:
    """What the images depend on: the fonts, how they are drawn, and by what."""
    from PIL import features

    given = (FORMAT, sorted(fonts.items()), features.version("freetype2"), unicodedata.unidata_version)
    return hashlib.sha256(repr(given).encode()).hexdigest()[:16]


def _make(files: list[pathlib.Path]) -> Arrays:
    """Draws the letters and leaves out look-alikes: `images`, `letters` and `faces`, a row each."""
    drawn = _draw(files)
    rows = np.flatnonzero(np.isin(drawn.letters, _kept(drawn)))
    rows = rows[np.lexsort((drawn.faces[rows], drawn.letters[rows]))]
    return {"images": drawn.placed[rows], "letters": drawn.letters[rows], "faces": drawn.faces[rows]}


def _draw(files: list[pathlib.Path]) -> _Drawn:
    from matplotlib.ft2font import FT2Font
    from PIL import Image, ImageDraw, ImageFont

    fine = SIDE * FINER
    whole = (fine, fine, 2 * fine, 2 * fine)
    letters, faces, placed, centered = [], [], [], []
    for number, path in enumerate(files):
        # The basic layout is there in every build of Pillow.
        font = ImageFont.truetype(str(path), round(EM * fine), layout_engine=ImageFont.Layout.BASIC)
        for letter in sorted(FT2Font(str(path)).get_charmap()):
            if not _script(letter):
                continue
            sheet = Image.new("L", (3 * fine, 3 * fine))
            position = (1.5 * fine, fine + round(BASELINE * fine))
            ImageDraw.Draw(sheet).text(position, chr(letter), font=font, fill=255, anchor="ms")
            ink = sheet.getbbox()
            if ink is None or not (
                ink[0] >= whole[0] and ink[1] >= whole[1] and ink[2] <= whole[2] and ink[3] <= whole[3]
            ):
                continue
            left, top = (ink[0] + ink[2] - fine) // 2, (ink[1] + ink[3] - fine) // 2
            letters.append(letter)
            faces.append(number)
            placed.append(np.asarray(sheet.crop(whole).reduce(FINER)))
            centered.append(np.asarray(sheet.crop((left, top, left + fine, top + fine)).reduce(FINER)))
    return _Drawn(np.array(letters), np.array(faces), np.stack(placed), np.stack(centered))


def _kept(drawn: _Drawn) -> list[int]:
    """The letters that at least four faces have and that look like none kept before them."""
    known, rows, counts = np.unique(drawn.letters, return_inverse=True, return_counts=True)
    nearest: np.ndarray = np.full((len(known), len(known)), np.inf, np.float32)
    for face in range(len(FACES)):
        of_face = np.flatnonzero(drawn.faces == face)
        pixels = drawn.centered[of_face].reshape(len(of_face), -1).astype(np.float32)
        squares = np.sum(pixels**2, axis=1)
        differences = squares[:, None] + squares[None, :] - 2 * pixels @ pixels.T
        differences /= np.maximum(squares[:, None], squares[None, :])
        own = np.ix_(rows[of_face], rows[of_face])
        nearest[own] = np.minimum(nearest[own], differences)
    scripts = (TRAINED, *UNSEEN)
    order = sorted(range(len(known)), key=lambda row: (scripts.index(_script(known[row])), known[row]))
    kept: list[int] = []
    for row in order:
        if counts[row] >= LEAST_FACES and not np.any(nearest[row, kept] < LOOK_ALIKE):
            kept.append(row)
    return known[kept].tolist()


def _script(letter: int) -> str:
    """The script of a code point that counts as a letter here; "" for any other."""
    character = chr(letter)
    name = unicodedata.name(character, "").partition(" ")[0]
    counts = unicodedata.category(character) in ("Lu", "Ll", "Lo") and name in (TRAINED, *UNSEEN)
    return name if counts and unicodedata.normalize("NFKC", character) == character else ""


def _family(letter: int) -> str:
    """The name of the letter that this one is a form of: that of E for É."""
    return unicodedata.name(chr(letter)).partition(" WITH ")[0]
