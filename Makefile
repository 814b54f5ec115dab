# make quickstart   from nothing to a debate on real problems (DATA_DIR=../shared/data: GSM8K from there)
# make test         the tests that take minutes at most;  make test-slow   all of them
# make check        style, types, import rules
# make distill      the whole study on two cores: debate, R-SFT, DA, PAD, a table and a report (about an hour)
# make bench        every benchmark in bench/, then their ratios as one table (DATA_DIR as above: on real problems)
# Each builds .venv first where it must (agentark/install.py chooses the GPU or the CPU stack; STACK=cpu forces one).

# The first supported Python on PATH; name another with PYTHON=...
PYTHON ?= $(or $(shell for python in python3 python3.12 python3.11 python3.13; do \
	"$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& echo "$$python" && break; done),python3)
BIN := .venv/bin
VENV := .venv/.agentark-stack
MODEL := smollm2-135m-instruct
DATASET := $(if $(DATA_DIR),GSM8K,GSMSymbolic)

.PHONY: quickstart distill test test-slow check bench .venv FORCE

quickstart: $(VENV)
	$(BIN)/python inference.py --method_name llm_debate --test_dataset_name $(DATASET) --model_name $(MODEL) \
		--use_vllm --max_samples 8 --model_max_tokens 256 $(if $(DATA_DIR),--data_dir "$(DATA_DIR)")
	$(BIN)/python -m agentark.summary results/$(DATASET)/$(MODEL)/llm_debate_infer.jsonl --show 1

distill: $(VENV)
	$(BIN)/python -m study --config configs/studies/embedded.yaml

test: $(VENV)
	$(BIN)/python -m pytest

test-slow: $(VENV)
	$(BIN)/python -m pytest -m 'slow or not slow'

check: $(VENV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)
	@failed=; for script in bench/*_bench.py bench/simulate.py; do echo "== $$script"; set --; \
		$(if $(DATA_DIR),! grep -qe --data_dir "$$script" || set -- --data_dir "$(DATA_DIR)";) \
		$(BIN)/python "$$script" "$$@" || failed="$$failed $$script"; done; \
	$(BIN)/python bench/table.py; test -z "$$failed" || { echo "failed:$$failed" >&2; exit 1; }

.venv: $(VENV)

$(VENV): $(wildcard requirements*.txt) agentark/install.py $(if $(STACK),FORCE)
	$(PYTHON) agentark/install.py $(if $(STACK),--stack $(STACK))
