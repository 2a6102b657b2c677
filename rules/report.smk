# What is made from several studies at once: the comparison with the paper, the interactive page, one
# file with all runs. "snakemake report" adds what depends on the time and the machine of a run,
# which therefore is no part of "all"; see the Makefile.
localrules:
    report,


rule reproduction:
    input:
        speed_limits=inputs.of_studies(PLAN, "speed_limits"),
        trends=inputs.of_studies(PLAN, "trends"),
        exponents=inputs.of_studies(PLAN, "exponents"),
        warm_starts=inputs.of_studies(PLAN, "warm_starts"),
    output:
        table=report(
            "results/report/reproduction.csv",
            caption="../report/reproduction.rst",
            category="Reproduction",
            labels={"table": "paper and ours, every number"},
        ),
        page="results/report/reproduction.html",
    log:
        "results/logs/report/reproduction.log",
    benchmark:
        "results/benchmarks/report/reproduction.tsv"
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        settings=SETTINGS.of("reproduction"),
    message:
        "Holding the runs against the paper"
    script:
        "../scripts/reproduction.py"


rule interactive:
    input:
        inputs.of_studies(PLAN, "speed_limits"),
    output:
        report(
            "results/report/interactive.html",
            caption="../report/interactive.rst",
            category="Interactive",
            labels={"page": "inefficiency against time, every run"},
        ),
    log:
        "results/logs/report/interactive.log",
    benchmark:
        "results/benchmarks/report/interactive.tsv"
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        settings=SETTINGS.of("interactive"),
    message:
        "Writing the interactive page"
    script:
        "../scripts/interactive.py"


rule all_runs:
    input:
        speed_limits=inputs.of_studies(PLAN, "speed_limits"),
        training_curves=inputs.of_studies(PLAN, "training_curves"),
    output:
        "results/all_runs.nc",
    log:
        "results/logs/report/all_runs.log",
    benchmark:
        "results/benchmarks/report/all_runs.tsv"
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        settings=SETTINGS.of("all_runs"),
    message:
        "Gathering all runs in one file"
    script:
        "../scripts/all_runs.py"


# The same of every study (target studies), and of one (its target study_NAME).
use rule all_runs as all_studies with:
    input:
        speed_limits=inputs.of_studies(PLAN, "speed_limits", PLAN.studies),
        training_curves=inputs.of_studies(PLAN, "training_curves", PLAN.studies),
    output:
        "results/all_studies.nc",
    log:
        "results/logs/report/all_studies.log",
    benchmark:
        "results/benchmarks/report/all_studies.tsv"
    params:
        settings=SETTINGS.of("all_studies"),


use rule all_runs as runs_of_study with:
    input:
        speed_limits=["results/studies/{study}/speed_limits.csv"],
        training_curves=["results/studies/{study}/training_curves.csv"],
    output:
        "results/studies/{study}/runs.nc",
    log:
        "results/logs/studies/{study}/runs.log",
    benchmark:
        "results/benchmarks/studies/{study}/runs.tsv"
    params:
        settings=SETTINGS.of("runs_of_study"),
    message:
        "Gathering all runs of the study {wildcards.study} in one file"


rule benchmark_summary:
    input:
        inputs.all_targets(PLAN),
        rules.theory.input,
    output:
        table=report(
            "results/report/benchmarks.csv",
            caption="../report/benchmarks.rst",
            category="Benchmarks",
            labels={"table": "time, memory, GPU memory per rule"},
        ),
        page="results/report/benchmarks.html",
    log:
        "results/logs/report/benchmark_summary.log",
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        settings=lambda wildcards: SETTINGS.benchmark_summary(workflow.rules),
    message:
        "Summarising time and memory of the jobs"
    script:
        "../scripts/benchmark_summary.py"


rule provenance:
    input:
        inputs.all_targets(PLAN),
        rules.theory.input,
        subsets=inputs.subset_files(PLAN),
    output:
        table=report(
            "results/report/provenance.json",
            caption="../report/provenance.rst",
            category="Provenance",
            labels={"table": "configuration, digests, versions, machines"},
        ),
        page="results/report/provenance.html",
    log:
        "results/logs/report/provenance.log",
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        settings=lambda wildcards: SETTINGS.provenance(),
    message:
        "Writing down configuration, digests, versions and machines"
    script:
        "../scripts/provenance.py"


rule report:
    input:
        inputs.all_targets(PLAN),
        rules.theory.input,
        "results/report/benchmarks.csv",
        "results/report/provenance.json",
