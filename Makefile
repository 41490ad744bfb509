# Every target makes its own virtual environment if there is none.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DOCS_READY := $(VENV)/.docs-ready

.PHONY: install demo test test-all lint docs bench fuzz prepare-ixi clean

install: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one with: make PYTHON=/path/to/python3"; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { echo "Creating $(VENV)"; \
		$(PYTHON) -m venv --clear $(VENV) || { echo "No virtual environment could be made;" \
		"on Debian and Ubuntu, install the package python3-venv first."; exit 1; }; }
	@echo "Installing metavoxel and its parts (a few minutes the first time)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(DOCS_READY): $(READY)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

demo: $(READY)
	$(BIN)/metavoxel demo --out demo

# A process a core, each with one thread; a file's tests share what they set up.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile -m "not whole"

# What make test leaves out: whole cohorts, real heads, several seeds.
test-all: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile -m whole

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

docs: $(DOCS_READY)
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build

# Damaged and hostile files through every reader, each in a process with limits: five minutes.
fuzz: $(READY)
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -m fuzz.run --cases 10000

bench: $(READY)
	$(BIN)/python benchmarks/run.py

# Every real scan from raw to derivative, its report, and beside the brains prepared before: 75 minutes
# of processor time, so 40 minutes on two free cores. Stopped, it goes on where it was.
IXI ?= ../shared/data/ixi
prepare-ixi: $(READY)
	-$(BIN)/metavoxel preprocess $(IXI) prepared-ixi participant --jobs 2
	$(BIN)/metavoxel preprocess $(IXI) prepared-ixi group
	$(BIN)/python benchmarks/preprocess.py compare prepared-ixi $(IXI)/derivatives/brain

clean:
	rm -rf $(VENV) docs/_build demo
