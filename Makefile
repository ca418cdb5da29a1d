# `make demo` and `make test` do all the set-up themselves.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Every test runs on one thread; files are spread over so many processes.
SPREAD := -n $(or $(WORKERS),2) --dist loadfile
OLDEST ?= .venv-oldest
export TOKENIZERS_PARALLELISM := false

.PHONY: demo docs test test-all test-oldest torture support check reference reference-wan plans plan-results benchmark \
	benchmark-video fidelity overhead cost galaxies neighbours clean

demo: $(READY)
	$(BIN)/skipcast generate shapes-flux --method plan:evaluations=10 --prompt "a large red star on a blue background" \
		--out runs/demo/planned
	$(BIN)/skipcast generate shapes-wan --method plan:evaluations=10 \
		--prompt "a red star moves left quickly on a blue background" --out runs/demo/clip
	$(BIN)/skipcast compare shapes-flux --evaluations 6,8,10 --seeds 2 --out runs/demo/compared

test: $(READY)
	$(BIN)/python -m pytest $(SPREAD) -m "not slow"

# With slow families and modes, quantised weights, and the oldest versions that are supported.
test-all: $(READY) $(VENV)/.quantized test-oldest
	$(BIN)/python -m pytest $(SPREAD)

test-oldest: $(OLDEST)/.ready
	$(OLDEST)/bin/python -m pytest $(SPREAD) -m "not slow" tests/families tests/pipelines/test_diffusers.py tests/modes/test_calls.py \
		tests/modes/test_guidance.py

# The tests of reliability in their long form, about five minutes; the counts go into docs/reliability.md.
torture: $(READY)
	$(BIN)/python -m research.torture --out docs/reliability.md

# Every family at every seam and with plans: docs/support.md.
support: $(READY)
	$(BIN)/python -m pytest tests/families --support-page docs/support.md

# The site, into build/site; fails on a broken link.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	$(BIN)/python -m pytest tests/test_site.py

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Trains the shipped model again; resumes where it was interrupted.
reference: $(READY)
	$(BIN)/python -m research.shapes_flux.train

# Trains the video model again, and judges it.
reference-wan: $(READY)
	$(BIN)/python -m research.shapes_wan.train
	$(BIN)/python -m research.shapes_wan.evaluate

# Records the reference models and solves the plans that ship with them; goes on where it was interrupted.
plans: $(READY)
	$(BIN)/python -m research.training.ship
	$(BIN)/python -m research.training.ship --model shapes-wan --work build/plans-wan \
		--guidance 2 3 4 6 --pairs 96 --judging 96 --batch 24 --nfe 5 8 10 17 --passes

# What plans reach, where they fail, what did not pay: docs/results/plans.md. Run it alone, for it also takes times.
PLAN_BENCH := $(BIN)/python -m research.plans
plan-results: $(READY)
	$(PLAN_BENCH) bars --out docs/results/plans/bars.json --seeds 5
	$(PLAN_BENCH) tails --out docs/results/plans/tails.json --prompts research/specs/prompts-64.txt --seeds 4 --seed 3000
	$(PLAN_BENCH) transfer --out docs/results/plans/transfer.json --seeds 2
	$(PLAN_BENCH) guidance --out docs/results/plans/guidance.json --seeds 2
	$(PLAN_BENCH) retry --out docs/results/plans/retry.json --seeds 5
	$(PLAN_BENCH) seam --out docs/results/plans/seam.json --seeds 4
	$(PLAN_BENCH) cost --out docs/results/plans/cost.json --seeds 4 --draws 2
	$(PLAN_BENCH) ablation --out docs/results/plans/ablation.json --seeds 4
	$(PLAN_BENCH) variants --out docs/results/plans/variants.json --seeds 2 --pairs 32
	$(PLAN_BENCH) limit --out docs/results/plans/limit.json --seeds 5 --budgets 5 6 --iterations 60
	$(PLAN_BENCH) loop --out docs/results/plans/loop.json
	$(PLAN_BENCH) page docs/results/plans --out docs/results/plans.md

# The benchmark of record: docs/results/shapes-flux.md, methods.md, and what the README shows. Goes on where it was
# interrupted; run it alone, for it also takes times.
RECORD := runs/record
RECORDED := docs/results/shapes-flux-50.jsonl.gz docs/results/shapes-flux-20.jsonl.gz
benchmark: $(READY)
	$(BIN)/skipcast bench research/specs/record-50.yaml --workers 2 --out $(RECORD)/50
	$(BIN)/skipcast bench research/specs/record-20.yaml --workers 2 --out $(RECORD)/20
	gzip -9 -n -c $(RECORD)/50/results.jsonl > docs/results/shapes-flux-50.jsonl.gz
	gzip -9 -n -c $(RECORD)/20/results.jsonl > docs/results/shapes-flux-20.jsonl.gz
	$(BIN)/skipcast report $(RECORD)/50/results.jsonl $(RECORD)/20/results.jsonl --megabytes 0.7 \
		--out docs/results/shapes-flux-report.html
	$(BIN)/python -m research.pages.record $(RECORD)/50/results.jsonl $(RECORD)/20/results.jsonl --out docs/results
	$(BIN)/python -m research.pages.methods $(RECORDED) --out docs/results/methods.md

# The benchmark of videos: docs/results/shapes-wan.md. Goes on where it was interrupted; run it alone.
benchmark-video: $(READY)
	$(BIN)/skipcast bench research/specs/record-video.yaml --workers 2 --out $(RECORD)/video
	gzip -9 -n -c $(RECORD)/video/results.jsonl > docs/results/shapes-wan-50.jsonl.gz
	$(BIN)/python -m research.shapes_wan.experts
	$(BIN)/python -m research.pages.video $(RECORD)/video/results.jsonl --out docs/results

# Every method beside a transcription of its authors' rule, and beside other libraries' code: docs/results/fidelity.md.
fidelity: $(READY)
	$(BIN)/python $(PIP) --no-deps cache-dit==1.5.3 pyyaml
	$(BIN)/python -m research.fidelity --out docs/results/fidelity.md

# What one forecast step costs, as a share of an evaluation of a network of FLUX's depth, seam by seam.
overhead: $(READY)
	$(BIN)/python -m research.cost --rows lagrange,resilphase,taylorseer --steps 10 --evaluations 3 --repeats 5 \
		--out runs/overhead.json

# What acceleration costs beside other caches, on a network of FLUX's depth: docs/results/cost.md. Run it alone.
cost: $(READY)
	$(BIN)/python $(PIP) --no-deps cache-dit==1.5.3 pyyaml
	OMP_NUM_THREADS=1 $(BIN)/python -m research.cost --repeats 2 --between 2
	$(BIN)/python -m research.cost page

# Plans on networks that others trained, survey by survey: docs/results/galaxies.md. Goes on where it was interrupted.
galaxies: $(READY)
	$(BIN)/python $(PIP) --no-deps galaxygrad==0.2.1
	OMP_NUM_THREADS=1 $(BIN)/python -m research.galaxies --surveys HSC,ZTF,LSST

# What stands beside forecasting: docs/results/neighbours.md. About an hour.
neighbours: $(READY) $(VENV)/.quantized
	OMP_NUM_THREADS=1 $(BIN)/python -m research.guidance
	OMP_NUM_THREADS=1 $(BIN)/python -m research.quantisation
	OMP_NUM_THREADS=1 $(BIN)/python -m research.tuning
	$(BIN)/python $(PIP) -c constraints.txt scikit-learn==1.9.1
	OMP_NUM_THREADS=1 $(BIN)/python -m research.alignment

# Two distributions from one checkout: the library, and the data of its reference models.
HERE := -e ./skipcast-models -e
PIP := -m pip install --quiet --disable-pip-version-check
$(READY): pyproject.toml skipcast-models/pyproject.toml constraints.txt
	@$(PYTHON) -m venv $(VENV) || { echo "venv failed; on Debian: apt-get install python3-venv"; exit 1; }
	$(BIN)/python $(PIP) -c constraints.txt pip  # dependency groups need 25.1
	$(BIN)/python $(PIP) -c constraints.txt "torch==2.13.0" numpy
	$(BIN)/python $(PIP) -c constraints.txt $(HERE) ".[ray,ui]" --group dev
	touch $(READY)

$(VENV)/.quantized: $(READY)
	$(BIN)/python $(PIP) -c constraints.txt --group quantized
	touch $@

$(VENV)/.docs: $(READY) constraints-docs.txt
	$(BIN)/python $(PIP) -c constraints.txt -c constraints-docs.txt --group docs
	touch $@

$(OLDEST)/.ready: pyproject.toml skipcast-models/pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python $(PIP) -c constraints-oldest.txt pip
	$(OLDEST)/bin/python $(PIP) -c constraints-oldest.txt "torch==2.13.0" numpy
	$(OLDEST)/bin/python $(PIP) -c constraints-oldest.txt $(HERE) ".[bench]" --group test
	touch $@

clean:
	rm -rf $(VENV) $(OLDEST) build dist runs .mypy_cache .ruff_cache .pytest_cache
