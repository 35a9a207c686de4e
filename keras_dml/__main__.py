"""`python -m keras_dml COMMAND ...`, the same as `keras-dml COMMAND ...`."""

from keras_dml.cli import script

if __name__ == "__main__":
    script()
