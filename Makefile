# demo: faces in the example photos.  test: everything that must hold.  lint, format, clean: as they say.
# results, times: measure all weights on DATA, and other packages in PEERS, where they are not measured yet.  tables: write the pages' tables anew.
# mutation: what share of small faults the tests notice.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test lint format clean results times tables mutation
MEASURE = $(BIN)/python benchmarks/measure.py --data $(DATA) $(if $(PEERS),--peers $(PEERS))

demo: $(VENV)/core
	$(BIN)/lineament detect examples/photos --out demo --json demo/faces.jsonl
	@echo "The pictures and faces.jsonl are in $(CURDIR)/demo"

test: lint
	$(BIN)/pytest

mutation: $(VENV)/everything
	$(BIN)/python benchmarks/mutation.py

lint: $(VENV)/everything
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/everything
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

results: $(VENV)/everything
	$(MEASURE)
	$(BIN)/python benchmarks/tables.py

times: $(VENV)/everything
	$(MEASURE) --time
	$(BIN)/python benchmarks/tables.py

tables: $(VENV)/everything
	$(BIN)/python benchmarks/tables.py

clean:
	rm -rf $(VENV) demo

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The two stamps say what is installed: the package alone, or with all its extras and the tools.
$(VENV)/core: pyproject.toml | $(BIN)/python
	$(PIP) --editable .
	touch $@

$(VENV)/everything: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[train,evaluate,report,openvino,dev]' --constraint constraints.txt
	touch $(VENV)/core $@
