# make demo   the whole workflow on embedded data, minutes on a CPU
# make test   lint and tests, with a miniature of the whole workflow
# make lint   ruff, snakefmt, snakemake --lint
# make docs   write the table of config keys into the README
PYTHON ?= python3
CORES ?= all
BIN := .venv/bin

.PHONY: verify demo report test lint docs clean

demo: .venv/.installed
	$(BIN)/snakemake --cores $(CORES) --configfile configs/demo.yaml
	@echo
	@echo "Figures: $(CURDIR)/results/studies/dataset_size/figures/"
	@echo "Tables:  $(CURDIR)/results/studies/dataset_size/"

test: .venv/.installed-dev lint
	$(BIN)/python -m pytest -q

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

.venv/.installed-dev: requirements.txt requirements-dev.txt .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@
