# make demo    the whole line on scikit-learn's digits: train, patch, export, measure, report
# make test    the tests, but for the slow ones
# make test-slow      those that take longer than about ten seconds each
# make lint    ruff, mypy --strict, the import rules
# make docs    the docs site, into site/; a warning fails it
# make schemas docs/schemas, from the types that check records and configs
# make bench   ratios against peers, on this machine
# make test-browser   the report in headless Chromium at two widths, light and dark
# make gpu            on a machine with a GPU: training, every engine, its tests; ten minutes, a record (gpu.json)
# make test-rtx       TensorRT-RTX engines of this project's networks, built without a GPU
# make test-arm64     the validator on an emulated arm64 machine: equal codes, logits and verdicts (Debian, root)
# make test-hls4ml    the operators at which hls4ml stops reading our QONNX file (an environment of its own)
# make test-public-networks   28 networks of pytorchcv, unmodified: quantized, exported, equal in every
#              code (an hour)
# make test-hostile   2,000 hostile bundles more than `make test` has, 100 of them as processes, and 200
#              by a lab that signs what must not ship
# make test-python310   the validator in Python 3.10, in an environment of its own
# make test-resume   a training killed at twenty random moments, byte for byte the unbroken one
# make fuzz           every reader of a file on damaged ones, for half an hour (SECONDS=… FIRST_SEED=…)
# make test-kills    train, patch, export, eval, bundle and validate killed at forty random moments
#
# Each builds .venv first, when it is missing or older than the two files that say what belongs in it.
# Needs Python 3.11 and make. On a machine with a package index of its own, pip's usual settings apply.

PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
EXTRAS := train,export,cpu,eval,cluster,dev

# Two cores are what the timings in the documents were made on. The number of threads is part of a
# training: its sums are taken in another order with another one.
export OMP_NUM_THREADS ?= 2
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo docs gpu test test-slow test-python310 test-hls4ml test-public-networks test-arm64 test-resume test-kills test-hostile fuzz test-browser test-rtx lint bench schemas install
.DELETE_ON_ERROR:

install: $(STAMP)

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: install Python 3.11, or name one with make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11))' || { echo "$(PYTHON) is older than Python 3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The order-only prerequisite: making the environment must not make the stamp look old.
$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV) (the first time: several minutes, mostly torch)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

schemas: $(STAMP)
	$(BIN)/python -m benchmarks.schemas

# mkdocs-material announces its own end (2027) on every build; its pages say what follows.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

demo: $(STAMP)
	$(BIN)/python -m qadtr demo

# One process a core, one thread each; tests of a file share their fixtures and stay together.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses auto --dist loadfile

test-slow: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m slow --numprocesses auto --dist loadfile

test-hostile: $(STAMP)
	$(BIN)/python -m pytest -q -m hostile

# What gave a finding is kept, to be read again.
SECONDS    ?= 1800
FIRST_SEED ?= 0
fuzz: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz --seconds $(SECONDS) --first-seed $(FIRST_SEED) --found .cache/fuzz

test-resume: $(STAMP)
	$(BIN)/python -m pytest -q -m resume tests/training/test_resume_after_kills.py

test-kills: $(STAMP)
	$(BIN)/python -m pytest -q -m kills tests/qadtr/test_kills.py

# The machine is made from Debian's arm64 packages and the aarch64 wheels (a minute, 200 MB), and kept.
# What is missing here fails it: a mirror (DEBIAN_MIRROR names another), apt-get, the right to chroot.
test-arm64: $(STAMP)
	@$(BIN)/python -m benchmarks.arm64_root .cache/arm64
	$(BIN)/python -m pytest -q -m arm64 tests/arm64

# Chromium is the system's (Debian: apt-get install chromium), never a download of the test tool.
test-browser: $(STAMP)
	@command -v "$${CHROMIUM:-chromium}" >/dev/null || { echo "no chromium here: apt-get install chromium, or name one in CHROMIUM" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[browser]'
	$(BIN)/python -m pytest -q -m browser

# Fails where the wheels cannot be had; Linux on x86-64 has them.
test-rtx: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[rtx,rtx-ep]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m rtx --numprocesses auto --dist loadfile tests/deploy tests/benchmarks

# Refuses without a GPU, before anything is installed for one. TensorRT itself comes from NVIDIA's index.
gpu: $(STAMP)
	@$(BIN)/python -m benchmarks.gpu --check
	-$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[rtx,rtx-ep]'
	$(BIN)/python -m benchmarks.gpu --json gpu.json

test-public-networks: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[public-networks]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m public_networks --numprocesses auto tests/benchmarks/test_public_networks.py

# hls4ml wants packages of its own, so it gets an environment beside ours.
test-hls4ml: $(STAMP)
	$(PYTHON) -m venv .venv-hls4ml
	.venv-hls4ml/bin/python -m pip install --quiet 'hls4ml[onnx]==1.3.0' qonnx==1.0.0
	HLS4ML_PYTHON=.venv-hls4ml/bin/python $(BIN)/python -m pytest -q -m hls4ml

# What Ubuntu 22.04 and JetPack 6 have; onnxruntime 1.23.2 is the last for it.
test-python310: $(STAMP)
	python3.10 -m venv .venv-python310
	.venv-python310/bin/python -m pip install --quiet numpy onnxruntime
	PYTHON_3_10=.venv-python310/bin/python $(BIN)/python -m pytest -q tests/deploy/test_relocatable.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)
	$(BIN)/python -m benchmarks.speed
	$(BIN)/python -m benchmarks.validator
	$(BIN)/python -m benchmarks.training_step
