# make demo: pictures from nothing but python3, a C++ compiler and a package index. make test: the checks.
# make bench: how fast, into benchmarks/results and the tables made of it. make scores: how well the shipped models do.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
RESULTS ?= benchmarks/results/cpu

.PHONY: demo test lint bench scores clean

$(VENV)/ready: pyproject.toml setup.py constraints.txt $(shell find csrc -type f)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: $(VENV)/ready
	mkdir -p out
	$(BIN)/pydiff generate "a red circle left of a blue square on a white background" --seed 7 --size 1024 \
		-o out/circle.png --sheet out/stages.png
	$(BIN)/python examples/gallery.py out/gallery.png
	$(BIN)/python examples/edits.py out/edits.png
	$(BIN)/python examples/pictures.py out/pictures.png

test: lint
	$(BIN)/python -m pytest

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check openvino
	$(BIN)/python -m benchmarks.operators --rounds 50 --json $(RESULTS)-operators.json
	$(BIN)/python -m benchmarks.networks --rounds 3 --json $(RESULTS)-networks.json
	$(BIN)/python -m benchmarks.tasks --json $(RESULTS)-tasks.json
	$(BIN)/python -m benchmarks.tasks edit --rounds 3 --json $(RESULTS)-edit.json
	$(BIN)/python -m benchmarks.tasks inpaint --json $(RESULTS)-inpaint.json
	$(BIN)/python -m benchmarks.runtimes --rounds 3 --json $(RESULTS)-runtimes.json
	$(BIN)/python -m benchmarks.report

scores: $(VENV)/ready
	$(BIN)/python -m benchmarks.scenes
	$(BIN)/python -m benchmarks.edits
	$(BIN)/python -m benchmarks.instructions
	$(BIN)/python -m benchmarks.restore

clean:
	rm -rf $(VENV) out build *.egg-info
