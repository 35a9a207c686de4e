"""Where the zoo keeps what it measured."""

import pathlib

RECORDS = pathlib.Path(__file__).parent / "records"
"""The records of the experiments that we ran, `NAME.json`."""
