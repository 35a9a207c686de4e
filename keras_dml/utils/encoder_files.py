"""Names of the files that an `ImageEncoder` is saved in, for those who only want to know where they lie."""

ENCODER_FILE = "encoder.keras"
PAIR_SCORER_FILE = "pair_scorer.keras"
CONTENT_FILE = "image_encoder.json"
