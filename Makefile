# Every target first builds the virtual environment it needs, once. On a fresh machine: make demo, make test.
# Pip's own variables and configuration say where packages come from: an index, a proxy, PyTorch's CPU wheels.
GIVEN := $(PYTHON)
PYTHON ?= python3
BIN := .venv/bin
# a process gets files one after the other, which builds fewer of their fixtures twice than by single tests
FAST := -n 2 --dist worksteal

# an environment of another Python is built anew, with PYTHON given (make test PYTHON=python3.13) at once
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
OTHER := $(foreach folder,.venv .venv-docs .venv-oldest .venv-newest,$(if $(wildcard $(folder)/lib/python$(VERSION)),,$(wildcard $(folder))))

.PHONY: demo test test-slow test-oldest test-newest check docs bench lock $(if $(GIVEN),$(OTHER:=/.installed))

demo: .venv/.installed
	$(BIN)/python examples/demo/run.py

test: .venv/.installed
	$(BIN)/python -m pytest $(FAST)

test-slow: .venv/.installed .venv/onnxruntime .venv/bindings .venv/fonts
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "slow and not gpu and not network"

test-oldest: .venv-oldest/.installed
	.venv-oldest/bin/python -m pytest $(FAST)

# updated every time: what is newest changes
test-newest:
	$(call environment,.venv-newest,14)
	.venv-newest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager --editable '.[dev]'
	.venv-newest/bin/python -m pytest $(FAST)

check: .venv/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/python tools/check_docs.py

# site/, strictly: a broken link or reference is an error
docs: .venv-docs/.installed
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build

bench: .venv/.installed
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/forward.py
	$(BIN)/python benchmarks/train_step.py
	$(BIN)/python benchmarks/runtimes.py

# the newest version of every package that works with the torch of requirements/lock.in
lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet --upgrade uv
	.venv-lock/bin/python tools/write_lock.py .venv-lock/bin/uv

# $(1): folder; $(2): the last Python 3 with wheels of all packages. pip builds the environment in place, so an
# interrupted installation is continued by the next make
define environment
	@$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info[:2] <= (3, $(2)) or sys.exit("$@: expected Python 3.11 to 3.$(2), but $(PYTHON) is %d.%d. Name another, such as PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv $(if $(filter $(1),$(OTHER)),--clear) $(1)
endef

.venv/.installed: pyproject.toml requirements/lock.txt requirements/torch.txt
	$(call environment,.venv,14)
	$(BIN)/python -m pip install --quiet --no-deps --requirement requirements/lock.txt
	$(BIN)/python -m pip install --quiet --no-build-isolation --constraint requirements/torch.txt --editable '.[dev]'
	touch $@

# for the C++ sample, whose test is skipped without them: elsewhere than on Debian there is no such package
.venv/onnxruntime: .venv/.installed
	-examples/cpp/onnxruntime_headers.sh $@

# 2 MB of fonts, for the tests that draw class names in scripts which most machines have no font for
.venv/fonts: .venv/.installed
	-tools/unpack_debian.sh $@ fonts-wqy-microhei fonts-lohit-deva fonts-lohit-beng-bengali fonts-lohit-taml fonts-tlwg-garuda-ttf

# Python interfaces to compare typings/ with; TensorRT itself is elsewhere. Tests that miss one are skipped
.venv/bindings: .venv/.installed
	-$(BIN)/python -m pip install --quiet --no-deps --target $@/tensorrt-10 tensorrt-cu12-bindings==10.0.1
	-$(BIN)/python -m pip install --quiet --no-deps --target $@/tensorrt-11 tensorrt-cu12-bindings==11.4.0.106
	-$(BIN)/python -m pip install --quiet --target $@/cuda cuda-bindings==13.5.0

.venv-docs/.installed: requirements/docs.txt
	$(call environment,.venv-docs,14)
	.venv-docs/bin/python -m pip install --quiet --no-deps --requirement requirements/docs.txt
	touch $@

.venv-oldest/.installed: pyproject.toml requirements/oldest.txt
	$(call environment,.venv-oldest,12)
	.venv-oldest/bin/python -m pip install --quiet --constraint requirements/oldest.txt --editable '.[dev]'
	touch $@
