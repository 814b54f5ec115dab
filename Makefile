# make quickstart   from nothing to a debate on 8 problems, beside a vote and a single answer (DATA_DIR=../shared/data:
#                   SVAMP from there)
# make test         the tests that take minutes at most;  make test-slow   all of them
# make check        style, types, import rules
# make distill      a study on two cores: a model of 0.5B votes and debates, and learns from both; a table and a report
#                   (about two hours; DATA_DIR as above)
# make lab          tiny worlds in which the truth is known: which strategy distils a team, and what the controls give
#                   (WORLDS=denoise or SET=engine.use_vllm=false, ... for a part of it)
# make bench        every benchmark in bench/, then their ratios as one table (DATA_DIR as above: on real problems)
# Each builds .venv first where it must (agentark/install.py chooses the GPU or the CPU stack; STACK=cpu forces one).

# The first supported Python on PATH; name another with PYTHON=...
PYTHON ?= $(or $(shell for python in python3 python3.12 python3.11 python3.13; do \
	"$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& echo "$$python" && break; done),python3)
BIN := .venv/bin
VENV := .venv/.agentark-stack

# the study's questions, where upstream's file of all problems is in DATA_DIR
SVAMP = $(foreach part,train tests.held-out,$(part).dataset=SVAMP $(part).split=test "$(part).data_dir=$(DATA_DIR)" \
	"$(part).task_config=[part=$(if $(filter train,$(part)),train,test)]")

# denoise comes first: the three after it are its controls
WORLDS ?= denoise clones unrelated independent interact compose

.PHONY: quickstart distill lab test test-slow check bench .venv FORCE

quickstart: $(VENV)
	$(BIN)/python -m agentark.quickstart $(if $(DATA_DIR),--data_dir "$(DATA_DIR)")

distill: $(VENV)
	$(BIN)/python -m study --config configs/studies/embedded.yaml $(if $(DATA_DIR),--set folder=outputs/svamp $(SVAMP))

lab: $(VENV)
	for world in $(WORLDS); do \
		$(BIN)/python -m study --config configs/studies/lab_$$world.yaml $(if $(SET),--set $(SET)) || exit; done
	$(BIN)/python -m eval.ark --merge $(WORLDS:%=outputs/lab/%/ark/ark.json) --output outputs/lab/ark
	$(BIN)/python -m eval.report --results outputs/lab --output outputs/lab/report

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
