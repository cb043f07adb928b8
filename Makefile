# make demo: set up, run the main job on the fixtures, show what came of it.   make test: everything that must pass,
# of which make check is the part that takes seconds: format, lint, imports, types.

PYTHON ?= python3.11
BIN := .venv/bin
INSTALLED := .venv/.installed
STAND_IN := build/clap/stand-in.json
DEMO := build/demo.txt

# Where this is set, each start of the program compiles its modules anew, and the tests start it by the hundred.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo browse check test pytest chaos format readme clean
.DELETE_ON_ERROR:

demo: $(DEMO)
	@cat $(DEMO)

# Opens the page on the demo's database.
browse: $(DEMO)
	$(BIN)/python search_dataset_sql.py --serve --config build/demo/config.yaml

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

test: check pytest

pytest: $(DEMO)
	# By file: two load CLAP, which takes seconds and gigabytes. When a process of pytest-xdist crashes, the run ends:
	# one started in its place begins with the test that crashed, and the run may not come to an end.
	$(BIN)/pytest -q -n 3 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

# Kills by the dozen, spoilt files by the thousand, hours of audio: minutes. SEED=7 throws other dice than the usual ones.
chaos: $(INSTALLED)
	CHAOS=long SEED=$(SEED) $(BIN)/pytest -q -s tests/chaos tests/test_hostile.py
	$(BIN)/python tests/support/hostile.py

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Puts what the demo prints into README.md.
readme: $(DEMO)
	$(BIN)/python fixtures/demo.py --readme $(DEMO)

clean:
	rm -rf build .mypy_cache .ruff_cache .pytest_cache

$(INSTALLED): requirements.txt requirements-dev.txt requirements-cluster.txt
	$(PYTHON) -m venv .venv
	# Not compiled: a quarter of it is ever imported, and is compiled then.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.txt -r requirements-dev.txt
	touch $@

# The stand-in for CLAP, since its weights are 1.9 GB: the real architecture, untrained.
$(STAND_IN): fixtures/make_clap.py $(INSTALLED)
	$(BIN)/python fixtures/make_clap.py build/clap
	touch $@

# Runs once; again only when something that it shows has changed.
$(DEMO): fixtures/demo.py fixtures/make_stems.py prepare_dataset_sql.py search_dataset_sql.py $(shell find stem_dataset -name '*.py') config.yaml $(STAND_IN)
	$(BIN)/python fixtures/demo.py build/demo > $@
