"""How close is neural-network training to the fastest that thermodynamics allows?

Data -> training -> kernel -> analysis -> figures; each theme has its file in rules/.
"""

import logging
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

min_version("9.20")

if not Path(workflow.basedir, "scripts/pipeline").is_dir():
    raise WorkflowError(
        "this workflow cannot be a module of another one; run it by itself: "
        "snakemake --snakefile .../Snakefile --directory FOLDER"
    )
sys.path.insert(0, f"{workflow.basedir}/scripts")

from pipeline import inputs, planned, running_code
from pipeline.config import ConfigError, validated
from pipeline.runs import Plan
from pipeline.settings import EXPERIMENTS, THEORY_FIGURES, RuleSettings
from pipeline.workdir import (
    end,
    note_start,
    refuse_what_cannot_start,
    register,
    tell_of_full_disk,
)

running_code.precede_other_installations()

# No traceback for each line of the log that a full disk has no room for.
logging.raiseExceptions = False


# The shipped one where the working folder (--directory) has none of its own.
configfile: "config.yaml" if Path("config.yaml").is_file() else f"{workflow.basedir}/config.yaml"


report: "report/workflow.rst"


# A cluster's job takes what the Snakemake that submitted it had read.
PLANNED = None if workflow.is_main_process else planned.stored()
try:
    CONFIG = (
        PLANNED.config
        if PLANNED
        else validated(config, workflow.configfiles, workflow.config_settings.config)
    )
except ConfigError as error:
    raise WorkflowError(str(error)) from None

config.update(CONFIG)  # captions read it too: without what null removes
register(workflow)
PLAN = Plan(CONFIG)
SETTINGS = RuleSettings(CONFIG, PLAN, PLANNED)
COMPUTE = CONFIG["compute"]


wildcard_constraints:
    dataset="[a-z0-9_]+",
    subset="n[^/]+",
    network="[^/]+",
    dynamics="[^/]+",
    realisation="[0-9]+",
    realisations="[0-9]+(-warm[0-9.e-]+)?",
    study="[a-z0-9_]+",
    figure="[a-z_]+",


include: "rules/data.smk"
include: "rules/train.smk"
include: "rules/kernel.smk"
include: "rules/analysis.smk"
include: "rules/figures.smk"
include: "rules/theory.smk"
include: "rules/report.smk"


localrules:
    all,
    studies,


# What the plain command makes: the default studies and the theory with their networks in it.
rule all:
    default_target: True
    input:
        inputs.all_targets(PLAN),
        rules.theory.input,


rule studies:
    input:
        [inputs.study_targets(PLAN, study) for study in PLAN.studies],
        "results/all_studies.nc",


# One target for each study: snakemake study_NAME
for study in PLAN.studies:

    rule:
        name:
            f"study_{study}"
        input:
            inputs.study_targets(PLAN, study),
            f"results/studies/{study}/runs.nc",
        localrule: True


# A target of no study, which makes nothing: its input function says which there are.
rule unknown_study:
    input:
        inputs.refusal_of_study(PLAN),
    output:
        "study_{unknown}",
    localrule: True


# Compares everything under results/ with what was recorded when it was written.
rule verify:
    log:
        "results/logs/verify.log",
    localrule: True
    conda:
        "envs/analysis.yaml"
    script:
        "scripts/verify.py"


# Removes the states that unfinished jobs and longer runs would continue from, unless jobs run.
rule clean_states:
    log:
        "results/logs/clean_states.log",
    localrule: True
    conda:
        "envs/analysis.yaml"
    script:
        "scripts/clean_states.py"


onstart:
    refuse_what_cannot_start(workflow)
    note_start()
    if workflow.is_main_process:
        running_code.tell_jobs(SETTINGS.files())
        if not workflow.local_exec:
            planned.store(CONFIG, SETTINGS.models(), SETTINGS.files())
            inputs.warn_of_cpu_jobs(COMPUTE["device"])


onsuccess:
    end()
    planned.finished()
    shell(
        "echo 'Tables and figures: results/studies/*/ and results/studies/*/figures/'"
        " || true"  # a closed output is no failure
    )


onerror:
    tell_of_full_disk()
