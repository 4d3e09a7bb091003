PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check
MEASURE = $(BIN)/python benchmarks/measure.py --data $(DATA) $(if $(PEERS),--peers $(PEERS))

.PHONY: demo test lint format docs results times tables mutation clean

# Detect the faces in the example photos.
demo: $(VENV)/core
	$(BIN)/lineament detect examples/photos --out demo --json demo/faces.jsonl
	@echo "The annotated images and faces.jsonl are in $(CURDIR)/demo"

# Everything that a change must pass: linters, types, import contracts and tests.
test: lint
	$(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadfile

lint: $(VENV)/everything
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/everything
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Build the site from docs/ and the docstrings.
docs: $(VENV)/docs
	PATH="$(abspath $(BIN)):$$PATH" NO_MKDOCS_2_WARNING=1 mkdocs build --strict
	@echo "Open $(CURDIR)/site/index.html. To search, serve it: $(BIN)/python -m http.server --directory site"

# Measure all weights on DATA, and the other packages in PEERS, where results are missing; then write the tables of the docs.
results: $(VENV)/everything
	$(MEASURE)
	$(BIN)/python benchmarks/tables.py

# The same for times. Nothing else may run on the machine.
times: $(VENV)/everything
	$(MEASURE) --time
	$(BIN)/python benchmarks/tables.py

tables: $(VENV)/everything
	$(BIN)/python benchmarks/tables.py

# Measure the share of small faults that the tests notice.
mutation: $(VENV)/everything
	$(BIN)/python benchmarks/mutation.py

clean:
	rm -rf $(VENV) demo site

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Stamps of what is installed: the package, the package with the tools of the site, the package with all other extras.
$(VENV)/core: pyproject.toml | $(BIN)/python
	$(PIP) --quiet --editable .
	touch $@

$(VENV)/docs: pyproject.toml | $(BIN)/python
	$(PIP) --quiet --editable '.[docs]'
	touch $(VENV)/core $@

$(VENV)/everything: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing all extras and tools into $(VENV), about 2 GB"
	$(PIP) --editable '.[train,pretrained,evaluate,report,openvino,video,parquet,serve,supervision,ray,dev]' --constraint constraints.txt
	touch $(VENV)/core $@
