# make demo   the whole workflow on embedded data, minutes on a CPU
# make test   lint and tests, with a miniature of the whole workflow; WORKERS=0 one test at a time
# make report report.html, one page that works offline, of the demo (or CONFIG=my.yaml)
# make lint   ruff, snakefmt, snakemake --lint
# make test-slurm   the tests on a real Slurm (root, Debian packages of docs/cluster.md), up to 10 minutes
# make test-long    the rerun tests with every key and module, and KILLS=50 kills over the DAG: an hour or more
# make docs   write the rulegraph, the table of config keys, and the pages of what rules depend on and of columns
# make benchmarks   the claims of speed, 5 minutes on an idle core; PEERS=1 beside neural-tangents and torchdiffeq, in
#             environments made for them; FULL=1 all cases, hours; ARCHIVE=cifar-10-python.tar.gz for its images;
#             GPU=1 the card instead, 5 minutes
# make pins   exact conda packages of envs/, where conda is at hand
PYTHON ?= python3
CUDA ?= 12.8
CORES ?= all
CONFIG ?= configs/demo.yaml
REPORT ?= report.html
KILLS ?= 50
WORKERS ?= auto
TABLES ?= build/benchmarks
BIN := .venv/bin
LARGE_STAGES := --case 32,1000
BENCHMARK := OMP_NUM_THREADS=1 PYTHONPATH=.venv/torchdiffeq $(BIN)/python benchmarks

.PHONY: verify demo report test test-slurm test-long lint docs clean pins benchmarks

demo: .venv/.installed
	$(BIN)/snakemake --cores $(CORES) --configfile configs/demo.yaml
	@echo
	@echo "Figures: $(CURDIR)/results/studies/dataset_size/figures/"
	@echo "Tables:  $(CURDIR)/results/studies/dataset_size/"

test: .venv/.installed-dev lint
	$(BIN)/python -m pytest -q --numprocesses $(WORKERS) --maxprocesses 4 --no-loadscope-reorder

test-slurm: .venv/.installed-dev
	SPEEDLIMITS_SLURM=1 $(BIN)/python -m pytest -q tests/test_slurm.py

test-long: .venv/.installed-dev
	SPEEDLIMITS_RERUNS=all $(BIN)/python -m pytest -q tests/test_reruns_planned.py
	$(BIN)/python tests/kill_fifty.py --kills $(KILLS)

report: .venv/.installed
	$(BIN)/snakemake --cores $(CORES) --configfile $(CONFIG)
	$(BIN)/snakemake --cores $(CORES) report --configfile $(CONFIG)
	$(BIN)/snakemake report --report $(REPORT) --configfile $(CONFIG)
	@echo "Report: $(CURDIR)/$(REPORT)"

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/snakemake --lint

docs: .venv/.installed-dev
	$(BIN)/python scripts/pipeline/documentation.py

benchmarks: .venv/.installed $(if $(PEERS),.venv/.installed-peers)
	mkdir -p $(TABLES)
ifdef GPU
	$(BIN)/python benchmarks/gpu.py --csv $(TABLES)/gpu $(if $(ARCHIVE),--archive $(ARCHIVE))
else
	$(BENCHMARK)/kernel.py --output $(TABLES)/kernel.csv $(if $(FULL),--full) \
	    $(if $(PEERS),--neural-tangents .venv/neural-tangents/bin/python)
	$(BENCHMARK)/kernel_stages.py --case 32,128 $(if $(FULL),$(LARGE_STAGES))
	$(BENCHMARK)/gradient_flow.py --csv $(TABLES)/gradient_flow.csv \
	    --parts power-law linearised $(if $(FULL),network sensitivity) $(if $(ARCHIVE),--archive $(ARCHIVE))
	$(BENCHMARK)/integrators.py --csv $(TABLES)/integrators.csv \
	    --parts power-law $(if $(FULL),network) $(if $(ARCHIVE),--archive $(ARCHIVE))
	$(BENCHMARK)/ensembles.py --csv $(TABLES)/ensembles.csv
	$(BENCHMARK)/spectrum.py --steps $(if $(FULL),40 80 160,80)
	$(if $(FULL),$(BENCHMARK)/paper_scale.py $(if $(ARCHIVE),--archive $(ARCHIVE)))
	$(if $(FULL),$(BENCHMARK)/dag.py)
	$(if $(FULL),$(BENCHMARK)/overhead.py)
endif

verify: .venv/.installed
	$(BIN)/python scripts/verify.py

clean:
	rm -rf .venv

.venv/.installed: requirements.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

# exact conda packages of each environment, as Snakemake reads them; needs conda and conda-forge
pins:
	for env in envs/*.yaml; do \
	    prefix=$$(mktemp -d)/env && \
	    CONDA_OVERRIDE_CUDA=$(CUDA) conda env create --file $$env --prefix $$prefix && \
	    conda list --explicit --prefix $$prefix > $${env%.yaml}.linux-64.pin.txt && \
	    rm -r $$prefix || exit 1; \
	done

# The Slurm plugin lies beside the environment, so that only the tests on Slurm see it; cffconvert, of
# which only the schema of CITATION.cff is used, because it wants a jsonschema below Snakemake's.
.venv/.installed-dev: requirements.txt requirements-dev.txt requirements-slurm.txt .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
	    --target .venv/slurm -r requirements-slurm.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
	    --target .venv/citation cffconvert==2.0.0
	touch $@

# neural-tangents wants an old jax, so an environment of its own; torchdiffeq lies beside ours.
.venv/.installed-peers: benchmarks/requirements-peers.txt benchmarks/requirements-flow.txt .venv/.installed
	$(BIN)/python -m venv .venv/neural-tangents
	.venv/neural-tangents/bin/python -m pip install --quiet --disable-pip-version-check \
	    -r benchmarks/requirements-peers.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
	    --target .venv/torchdiffeq -r benchmarks/requirements-flow.txt
	touch $@
