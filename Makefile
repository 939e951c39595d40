# `make latency` runs the main job, `make test` passes the tests; both set up .venv from nothing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SOURCES := pyproject.toml setup.py CMakeLists.txt $(wildcard kernels/csrc/*)

.PHONY: latency test test-triton test-gpu compile lint format clean
TRITON_FLOOR := build/triton-3.6
STUBS := build/tensorrt-stubs
latency: $(STAMP)
	$(BIN)/python bench/latency.py $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

# Compiled kernels at real sizes, on a GPU.
test-gpu: $(STAMP)
	TRITON_INTERPRET=0 $(BIN)/python -m pytest -m gpu $(ARGS)

# Every Triton kernel for A100, H100 and B200, without one: registers, spills, instructions.
compile: $(STAMP)
	$(BIN)/python bench/compile.py $(ARGS)

# The same kernels under the oldest triton we support.
test-triton: $(STAMP) $(TRITON_FLOOR)
	PYTHONPATH=$(TRITON_FLOOR) $(BIN)/python -m pytest tests/kernels
	PYTHONPATH=$(TRITON_FLOOR) $(BIN)/python bench/compile.py $(ARGS)

# numpy 2.4 breaks the interpreter of triton 3.6.
$(TRITON_FLOOR): | $(STAMP)
	$(BIN)/python -m pip install --quiet --target $@ --no-deps triton==3.6.0 'numpy<2.4'

lint: $(STAMP) $(STUBS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror kernels/csrc/*
	rm -rf build/typing && mkdir -p build/typing/pixelis_fast
	ln -s $(CURDIR)/pixelis_fast/* $(CURDIR)/kernels $(CURDIR)/tools_trt build/typing/pixelis_fast/
	MYPYPATH=build/typing:$(STUBS) $(BIN)/mypy -p pixelis_fast

# For mypy only, out of Python's sight: among the packages they would pass for TensorRT itself. As
# published, two lines of them are no Python.
$(STUBS): | $(STAMP)
	$(BIN)/python -m pip install --quiet --target $@ --no-deps tensorrt-stubs
	sed -i -E 's/\bin: /input_: /g; s/(channel_axis: int)\) -> IScaleLayer/\1 = ...) -> IScaleLayer/' \
		$@/tensorrt_bindings/tensorrt.pyi

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i kernels/csrc/*

# torch first: sam2's build reads it, and its CUDA extension is never used here.
$(STAMP): $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	SAM2_BUILD_CUDA=0 $(BIN)/python -m pip install --quiet -e '.[dev,baseline,ort-gpu]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) build *.egg-info
