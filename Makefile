# Every target first builds the virtual environment it needs, once. On a fresh machine: make demo, make test.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow test-oldest check bench

demo: .venv/.installed
	$(BIN)/python examples/demo/run.py

test: .venv/.installed
	$(BIN)/python -m pytest -n 2

test-slow: .venv/.installed .venv/onnxruntime .venv/bindings .venv/fonts
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "slow and not gpu and not network"

test-oldest: .venv-oldest/.installed
	.venv-oldest/bin/python -m pytest -n 2

check: .venv/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/python tools/check_docs.py

bench: .venv/.installed
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/forward.py
	$(BIN)/python benchmarks/train_step.py

# pip builds the environment in place, so an interrupted installation is continued by the next make
.venv/.installed: pyproject.toml requirements/constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --constraint requirements/constraints.txt --editable '.[dev]'
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

.venv-oldest/.installed: pyproject.toml requirements/oldest.txt
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --constraint requirements/oldest.txt --editable '.[dev]'
	touch $@
