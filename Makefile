# make demo   train a small model on the embedded corpus and ask it questions
# make test   style, types, layers, and the whole suite on TensorFlow, JAX and PyTorch
# make proofs  kill and resume, agreement across backends, peak memory, a session in a real terminal
# make slow   the other tests that take more than 20 seconds each
# make docs   the documentation, warnings are errors: docs/_build/html/index.html
# make gpu    on a machine with a GPU: speed beside nanoGPT and transformers, tests, exact resume
# make gpu-bundle  what benchmarks/gpu.py needs on such a machine without package index
# make coverage  which lines the tests reach, on JAX
#
# Each needs Python 3.11 or later and a package index, and makes .venv when there is none. A machine
# without GPU and without the pinned CPU build of torch can be given PyTorch's own index:
#     make test PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu

VENV := .venv
BIN := $(VENV)/bin
IS_NEW_ENOUGH := -c "import sys; sys.exit(sys.version_info < (3, 11))"
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p $(IS_NEW_ENOUGH) 2>/dev/null && echo $$p && break; done)
BACKENDS := tensorflow jax torch
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile

# Two workers of one thread each are faster here than one worker of two threads.
export OMP_NUM_THREADS ?= 1
export TF_NUM_INTRAOP_THREADS ?= 1
export TF_NUM_INTEROP_THREADS ?= 1
# The tests start hundreds of processes: none of them compiles a module to bytecode again.
export PYTHONDONTWRITEBYTECODE :=
# What JAX compiles for one test it need not compile again for the next.
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.pytest_cache/jax
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0
export JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES ?= 0

.PHONY: demo test proofs slow docs coverage lint test-any proofs-any clean gpu gpu-bundle \
	$(BACKENDS:%=test-%) $(BACKENDS:%=proofs-%) $(BACKENDS:%=slow-%)

demo: $(VENV)/.runtime
	env -u OMP_NUM_THREADS -u TF_NUM_INTRAOP_THREADS -u TF_NUM_INTEROP_THREADS $(BIN)/kgpt demo

test: lint test-any $(BACKENDS:%=test-%)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	mkdir -p .mypy_cache/packages && ln -sfn ../../tui .mypy_cache/packages/kgpt_tui
	$(BIN)/mypy

# On a CPU: tests/xla_flags.py. Proofs, slow tests and those on a GPU run on optimized code.
test-any $(BACKENDS:%=test-%) coverage: export TESTS_COMPILE_QUICKLY := 1

# Four workers, since many of these tests wait for a screen to come to rest.
test-any: $(VENV)/.dev
	KERAS_BACKEND=torch $(PYTEST) -n 4 -m "not backend and not slow and not proof"

$(BACKENDS:%=test-%): test-%: $(VENV)/.dev
	KERAS_BACKEND=$* $(PYTEST) -m "backend and not slow and not proof"

# Two of these at a time, each in one process: a long proof leaves no second worker without work.
PROOFS := proofs-jax proofs-any proofs-tensorflow proofs-torch
proofs: $(VENV)/.dev
	$(MAKE) --jobs 2 $(if $(filter output-sync,$(.FEATURES)),--output-sync) $(PROOFS)

proofs-any: $(VENV)/.dev
	KERAS_BACKEND=torch $(PYTEST) -n 0 -m "proof and not backend"

$(BACKENDS:%=proofs-%): proofs-%: $(VENV)/.dev
	KERAS_BACKEND=$* $(PYTEST) -n 0 -m "proof and backend and not slow"

# NANOGPT=FOLDER names a checkout of it; without one, the bundle downloads its model.py.
gpu: $(VENV)/.gpu
	env -u OMP_NUM_THREADS -u TF_NUM_INTRAOP_THREADS -u TF_NUM_INTEROP_THREADS \
		$(BIN)/python benchmarks/gpu.py $(if $(NANOGPT),--nanogpt $(NANOGPT))

gpu-bundle: $(VENV)/.dev
	$(BIN)/python -m benchmarks.gpu_run.bundle $(if $(NANOGPT),--nanogpt $(NANOGPT))

docs: $(VENV)/.dev
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

coverage: $(VENV)/.dev
	KERAS_BACKEND=jax $(PYTEST) -m "not slow and not proof" --cov=kgpt --cov=kgpt_tui --cov-report=term

slow: $(BACKENDS:%=slow-%)
	$(BIN)/python -m pytest -m "slow and not backend"

$(BACKENDS:%=slow-%): slow-%: $(VENV)/.dev
	KERAS_BACKEND=$* $(BIN)/python -m pytest -m "slow and backend"

# The environment is made anew when pyproject.toml has changed.
$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "kgpt needs Python 3.11 or later." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@ $(VENV)/.runtime

$(VENV)/.gpu: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[gpu,test,peers]"
	touch $@ $(VENV)/.runtime

clean:
	rm -rf $(VENV) gpu-bundle gpu-results build docs/_build *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
