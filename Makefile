# `make demo` runs the main job, `make test` runs every check. Both set up .venv by themselves.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
# CPU builds of torch live on PyTorch's own index; GPU=1 takes the default (CUDA) build instead.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH ?= torch==2.13.0
TORCHVISION_PIN ?= torchvision==0.28.0
ifdef GPU
TORCH_FROM :=
else
TORCH_FROM := --extra-index-url $(TORCH_INDEX)
endif

GPUS ?= 2
SIZE ?= 1024
TORCHVISION := .tools/torchvision
JS_CLIENT := tests/e2e/server/js/node_modules/.package-lock.json
CHROMIUM := .tools/chromium

.PHONY: demo test lint types layers unit chaos bench-runner bench-runner-gpu bench-gpu bench-peers bench-server bench-scaling clean
demo: $(VENV)/.installed
	$(VENV)/bin/polyrank demo

test: lint types layers unit

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(VENV)/.installed
	$(VENV)/bin/mypy

layers: $(VENV)/.installed
	$(VENV)/bin/lint-imports --no-cache

unit: $(VENV)/.installed $(TORCHVISION) $(JS_CLIENT) $(CHROMIUM)
	$(PY) -m pytest -n 3 --dist loadfile --no-loadscope-reorder --durations 40

# 500 requests, and 30 kills of server, replica and ranks meanwhile; `make test` kills 6 times.
chaos: $(VENV)/.installed
	POLYRANK_CHAOS=30 $(PY) -m pytest tests/e2e/server/test_nothing_lost.py

# What the engine itself costs, on this machine.
bench-runner: $(VENV)/.installed
	$(PY) -m benchmarks.runner

# The same on GPUs (GPUS=2), and SDXL's architecture through the engine.
bench-runner-gpu: $(VENV)/.installed
	$(PY) -m benchmarks.runner --device cuda --ranks $(GPUS)
	$(PY) -m benchmarks.sdxl --ranks $(GPUS)

# Everything of polyrank.diffusion on GPUs=2 GPUs, pictures of SIZE=1024: speed, several GPUs, scale,
# cold start, with floors and published figures; offline, Markdown. REFERENCE_PYTHON names a Python
# with the reference platform's SDK, to measure its runner too.
bench-gpu: $(VENV)/.installed
	$(PY) -m benchmarks.gpu --ranks $(GPUS) --size $(SIZE)

# polyrank beside other servers, each in an environment of its own below build/peers.
bench-peers: $(VENV)/.installed
	$(PY) -m benchmarks.peers

# Requests, events and the queue, beside the peers. Needs wrk (apt install wrk).
bench-server: $(VENV)/.installed
	$(PY) -m benchmarks.server

# What the scaling policy costs over traces of requests, and who waits; simulated.
bench-scaling: $(VENV)/.installed
	$(PY) -m benchmarks.scaling

# A machine without python3-venv still has pip, which can bring virtualenv.
$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); $(PYTHON) -m pip install -q --target .tools virtualenv \
		&& PYTHONPATH=.tools $(PYTHON) -m virtualenv -q $(VENV); }

$(VENV)/.installed: pyproject.toml $(VENV)/bin/pip
	$(PY) -c "import torch" 2>/dev/null || $(PY) -m pip install -q --no-deps --retries 1 $(TORCH_FROM) '$(TORCH)'
	$(PY) -m pip install -q -e '.[diffusion,dev]'
	touch $@

# The tutorial's app draws its grid with torchvision. Beside the other packages it would be imported
# by all that find it, and PyPI's does not import beside a CPU torch.
$(TORCHVISION): $(VENV)/bin/pip
	$(PY) -m pip install -q --no-deps --retries 1 $(TORCH_FROM) --target $@ '$(TORCHVISION_PIN)'

# The JavaScript client that the tests drive. node and npm are packages of the environment, so that
# the tests run the same ones everywhere.
$(JS_CLIENT): tests/e2e/server/js/package-lock.json $(VENV)/.installed
	$(VENV)/bin/npm ci --prefix $(<D) --ignore-scripts --no-audit --no-fund --loglevel error
	touch $@

# The browser of the web pages' tests; they say so and are skipped where none can be had.
$(CHROMIUM): $(VENV)/.installed
	$(PY) tests/programs/chromium.py $@

clean:
	rm -rf $(VENV) .tools demo $(dir $(JS_CLIENT))
