# `make demo` and `make test` set up everything they need in .venv.
#
#   make demo                  the bundled clip through every shipped tokenizer
#   make demo FILE=my.wav      your own recording
#   make test                  all tests
#   make test ARGS="-k tokens" some of them

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FILE ?=
OUT ?= demo-output
ARGS ?=

.PHONY: demo test lint clean

# The stamp is older than setup.py after a change of the requirements.
$(VENV)/.installed: setup.py
	@$(PYTHON) -c "import ensurepip, venv" 2>/dev/null || $(MAKE) --no-print-directory venv-package
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	touch $@

# Debian keeps the venv module in a package of its own.
.PHONY: venv-package
venv-package:
	@echo "$(PYTHON) has no venv: installing Debian's python3-venv"
	@apt-get update -qq && apt-get install -qq -y python3-venv >/dev/null || \
	  { echo "install it as root: apt-get install python3-venv" >&2; exit 1; }

demo: $(VENV)/.installed
	$(BIN)/dsu demo $(if $(FILE),"$(FILE)") --out "$(OUT)"

# Two processes of one thread each: most tests are too small to share out.
test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) $(OUT) build *.egg-info
