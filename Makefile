# make demo   the whole workflow on embedded data, minutes on a CPU
# make test   lint and tests, with a miniature of the whole workflow
# make report report.html, one page that works offline, of the demo (or CONFIG=my.yaml)
# make lint   ruff, snakefmt, snakemake --lint
# make test-slurm   the tests on a real Slurm (root, Debian packages of docs/cluster.md), up to 10 minutes
# make docs   write the rulegraph, the table of config keys, and the pages of what rules depend on and of columns
# make pins   exact conda packages of envs/, where conda is at hand
PYTHON ?= python3
CUDA ?= 12.8
CORES ?= all
CONFIG ?= configs/demo.yaml
REPORT ?= report.html
BIN := .venv/bin

.PHONY: verify demo report test test-slurm lint docs clean pins

demo: .venv/.installed
	$(BIN)/snakemake --cores $(CORES) --configfile configs/demo.yaml
	@echo
	@echo "Figures: $(CURDIR)/results/studies/dataset_size/figures/"
	@echo "Tables:  $(CURDIR)/results/studies/dataset_size/"

test: .venv/.installed-dev lint
	$(BIN)/python -m pytest -q

test-slurm: .venv/.installed-dev
	SPEEDLIMITS_SLURM=1 $(BIN)/python -m pytest -q tests/test_slurm.py

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
