# make demo | test | check | format. Every target sets up what it needs in .venv first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
KVPRESS_VENV ?= .venv-kvpress
CONSTRAINTS := third_party/constraints-cpu.txt
SOURCES := rlkv eval patches tests scripts

# Two threads of torch in each of several test processes would fight for the same cores.
TEST_WORKERS ?= 2

.PHONY: setup sglang areal lm-eval kvpress demo test test-full check format clean
setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable '.[train,duo,eval,dev]'
	touch $@

# What tests of the server need: a stock SGLang beside a CPU build of torch.
sglang: $(VENV)/.sglang

$(VENV)/.sglang: $(VENV)/.installed third_party/sglang-cpu.txt third_party/sglang-cpu-imports.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --requirement third_party/sglang-cpu-imports.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --requirement third_party/sglang-cpu.txt
	touch $@

# What asynchronous training needs: a stock AReaL beside that SGLang.
areal: $(VENV)/.areal

$(VENV)/.areal: $(VENV)/.sglang third_party/areal-cpu.txt third_party/areal-cpu-imports.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --requirement third_party/areal-cpu-imports.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --requirement third_party/areal-cpu.txt
	touch $@

# What the comparison with lm_eval needs, beside the server.
lm-eval: $(VENV)/.lm-eval

$(VENV)/.lm-eval: $(VENV)/.sglang
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable '.[lm-eval]'
	touch $@

# kvpress pins an older transformers than rlkv: an environment of its own, and the test of our press in it.
kvpress: $(KVPRESS_VENV)/.installed
	OMP_NUM_THREADS=1 $(KVPRESS_VENV)/bin/pytest -m full_matrix tests/integration/test_kvpress.py

$(KVPRESS_VENV)/.installed: pyproject.toml third_party/kvpress-cpu.txt
	$(PYTHON) -m venv $(KVPRESS_VENV)
	$(KVPRESS_VENV)/bin/pip install --quiet --disable-pip-version-check --requirement third_party/kvpress-cpu.txt
	$(KVPRESS_VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

demo: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/demo.sh runs/demo

test: areal
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(TEST_WORKERS) --dist loadfile

# The larger matrices too; the last -m counts.
test-full: areal lm-eval kvpress
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(TEST_WORKERS) --dist loadfile -m "not gpu"

check: setup
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy rlkv eval patches

format: setup
	$(BIN)/ruff check --fix-only $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

clean:
	rm -rf $(VENV) $(KVPRESS_VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
