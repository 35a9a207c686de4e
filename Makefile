# make reproduce   from a fresh clone to a trained model, its pictures and a searchable index
# make test        the tests          make check   linter and type checker
# make faults      every fault of tests/faults, of which `make test` tries a few
# make test-jax    the tests of what runs on Keras's JAX backend, where TensorFlow is not installed
# PYTHON=...       another interpreter (3.11 or 3.12)
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# The environment is rebuilt only when what it is made from has changed.
STAMP := $(VENV)/.installed-$(shell cat setup.py constraints.txt | cksum | cut -d' ' -f1)
JAX_VENV := .venv-jax
JAX_BIN := $(JAX_VENV)/bin
JAX_STAMP := $(JAX_VENV)/.installed-$(shell cat setup.py constraints.txt | cksum | cut -d' ' -f1)
JAX_TESTS := $(addprefix tests/,layers losses mining models data evaluation callbacks test_image_encoder.py)

.PHONY: reproduce test faults test-jax check install clean
reproduce: install
	$(BIN)/keras-dml reproduce

test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile

faults: install
	KERAS_DML_FAULTS=all $(BIN)/python -m pytest -n 2 --dist load tests/faults

test-jax: $(JAX_STAMP)
	KERAS_BACKEND=jax $(JAX_BIN)/python -m pytest -n 2 --dist loadfile $(JAX_TESTS)
	KERAS_BACKEND=jax $(JAX_BIN)/keras-dml reproduce digits --epochs 1 --seed 0 --set "lr_milestones=()" --output $$(mktemp -d)/digits

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: $(STAMP)

$(STAMP): setup.py constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python found. keras_dml needs Python 3.11 or 3.12 on the PATH, or: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v in ((3, 11), (3, 12)) else "keras_dml needs Python 3.11 or 3.12, but %s is Python %d.%d. Choose another: make PYTHON=/path/to/python3.11" % (sys.executable, v[0], v[1]))'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all,dev]'
	@rm -f $(VENV)/.installed-*
	@touch $@

$(JAX_STAMP): setup.py constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python found. keras_dml needs Python 3.11 or 3.12 on the PATH, or: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(JAX_VENV)
	$(JAX_BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[jax]' pytest pytest-xdist
	@rm -f $(JAX_VENV)/.installed-*
	@touch $@

clean:
	rm -rf $(VENV) $(JAX_VENV)
