# demo: detect the faces in the example photos.  test: lint, types, import contracts and tests.  docs: build the site from docs/ into site/.
# results, times: measure all weights on DATA, and other packages in PEERS, where they are not measured yet.  tables: write the pages' tables anew.
# mutation: what share of small faults the tests notice.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test docs lint format clean results times tables mutation
MEASURE = $(BIN)/python benchmarks/measure.py --data $(DATA) $(if $(PEERS),--peers $(PEERS))

demo: $(VENV)/core
	$(BIN)/lineament detect examples/photos --out demo --json demo/faces.jsonl
	@echo "The pictures and faces.jsonl are in $(CURDIR)/demo"

test: lint
	$(BIN)/pytest

docs: $(VENV)/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "Open $(CURDIR)/site/index.html, or serve it with search: $(BIN)/mkdocs serve"

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
	rm -rf $(VENV) demo site

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The stamps say what is installed: the package alone, with what builds the site, or with all its other extras and the tools.
$(VENV)/core: pyproject.toml | $(BIN)/python
	$(PIP) --editable .
	touch $@

$(VENV)/docs: pyproject.toml | $(BIN)/python
	$(PIP) --editable '.[docs]'
	touch $(VENV)/core $@

$(VENV)/everything: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[train,evaluate,report,openvino,dev]' --constraint constraints.txt
	touch $(VENV)/core $@
