# Two commands: `make demo` and `make test`. Everything lives in .venv in this folder.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

DATA ?= ../shared/data/bccd-voc

.PHONY: install demo test test-fast lint bench zoo curves clean

install: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $(STAMP)

demo: install
	$(BIN)/detcli train recipes/atss_r18_shapes.yaml

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# One thread per process and a process per core: small tensors gain nothing from more threads.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

# While one works: under two minutes on two cores. No training, no other processes, no linters.
test-fast: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -m "not slow and not bench"

# The peers. ultralytics without its dependencies, which would put another OpenCV over ours.
bench: install
	$(BIN)/python -m pip install --quiet --no-deps ultralytics psutil
	$(BIN)/python -m pip install --quiet 'transformers<5'
	$(BIN)/python -m pytest tests/benchmarks -m bench -s

# Every detector on the same small task: docs/zoo.md. About an hour and a half on one core.
zoo: install
	$(BIN)/python -m tests.benchmarks.zoo $(DATA) --out runs/zoo --write docs/zoo.md

# How fast ATSS, Deformable DETR and DETR learn: docs/detectors.md. About an hour on one core.
curves: install
	$(BIN)/python -m tests.benchmarks.curves --out runs/curves --write docs/detectors.md

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache dist build
