rule exponents:
    input:
        start=inputs.ensemble_kernels(PLAN, "start"),
        warm=inputs.ensemble_kernels(PLAN, "warm"),
        end=inputs.ensemble_kernels(PLAN, "end"),
    output:
        "results/runs/{dataset}/{subset}/{network}/{dynamics}/ensemble{realisations}/exponents.csv",
    log:
        "results/logs/runs/{dataset}/{subset}/{network}/{dynamics}/exponents{realisations}.log",
    benchmark:
        "results/benchmarks/runs/{dataset}/{subset}/{network}/{dynamics}/exponents{realisations}.tsv"
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        settings=SETTINGS.of("exponents"),
    message:
        "Fitting alpha and delta of {wildcards.network} on {wildcards.subset}"
    script:
        "../scripts/exponents.py"


rule speed_limit:
    input:
        manifests=inputs.ensemble_manifests(PLAN),
        start=inputs.ensemble_kernels(PLAN, "start"),
        warm=inputs.ensemble_kernels(PLAN, "warm"),
        warm_start="results/runs/{dataset}/{subset}/{network}/{dynamics}/ensemble{realisations}/warm_start.json",
        exponents="results/runs/{dataset}/{subset}/{network}/{dynamics}/ensemble{realisations}/exponents.csv",
    output:
        table="results/runs/{dataset}/{subset}/{network}/{dynamics}/ensemble{realisations}/speed_limits.csv",
        transport="results/runs/{dataset}/{subset}/{network}/{dynamics}/ensemble{realisations}/transport.json",
    log:
        "results/logs/runs/{dataset}/{subset}/{network}/{dynamics}/speed_limit{realisations}.log",
    benchmark:
        "results/benchmarks/runs/{dataset}/{subset}/{network}/{dynamics}/speed_limit{realisations}.tsv"
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        settings=SETTINGS.of("speed_limit"),
    message:
        "Speed limit and inefficiency of {wildcards.network} on {wildcards.subset}"
    script:
        "../scripts/speed_limit.py"


rule collect:
    input:
        inputs.study_files(PLAN, CONFIG),
    output:
        speed_limits=report(
            "results/studies/{study}/speed_limits.csv",
            caption="../report/table.rst",
            category="Study {study}",
            subcategory="Tables",
            labels=inputs.report_labels(PLAN, "table", "speed_limits"),
        ),
        exponents=report(
            "results/studies/{study}/exponents.csv",
            caption="../report/table.rst",
            category="Study {study}",
            subcategory="Tables",
            labels=inputs.report_labels(PLAN, "table", "exponents"),
        ),
        warm_starts=report(
            "results/studies/{study}/warm_starts.csv",
            caption="../report/table.rst",
            category="Study {study}",
            subcategory="Tables",
            labels=inputs.report_labels(PLAN, "table", "warm_starts"),
        ),
        training_curves=report(
            "results/studies/{study}/training_curves.csv",
            caption="../report/table.rst",
            category="Study {study}",
            subcategory="Tables",
            labels=inputs.report_labels(PLAN, "table", "training_curves"),
        ),
        kernels=report(
            "results/studies/{study}/kernels.csv",
            caption="../report/table.rst",
            category="Study {study}",
            subcategory="Tables",
            labels=inputs.report_labels(PLAN, "table", "kernels"),
        ),
        trends=report(
            "results/studies/{study}/trends.csv",
            caption="../report/table.rst",
            category="Study {study}",
            subcategory="Tables",
            labels=inputs.report_labels(PLAN, "table", "trends"),
        ),
        outcomes=report(
            "results/studies/{study}/outcomes.csv",
            caption="../report/table.rst",
            category="Study {study}",
            subcategory="Tables",
            labels=inputs.report_labels(PLAN, "table", "outcomes"),
        ),
        comparisons=report(
            "results/studies/{study}/comparisons.csv",
            caption="../report/table.rst",
            category="Study {study}",
            subcategory="Tables",
            labels=inputs.report_labels(PLAN, "table", "comparisons"),
        ),
        correlations=report(
            "results/studies/{study}/correlations.csv",
            caption="../report/table.rst",
            category="Study {study}",
            subcategory="Tables",
            labels=inputs.report_labels(PLAN, "table", "correlations"),
        ),
        transport=report(
            "results/studies/{study}/transport.csv",
            caption="../report/table.rst",
            category="Study {study}",
            subcategory="Tables",
            labels=inputs.report_labels(PLAN, "table", "transport"),
        ),
        spectra="results/studies/{study}/spectra.nc",
    log:
        "results/logs/studies/{study}/collect.log",
    benchmark:
        "results/benchmarks/studies/{study}/collect.tsv"
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        settings=SETTINGS.of("collect"),
    message:
        "Collecting the tables of the study {wildcards.study}"
    script:
        "../scripts/collect.py"


# Networks of several widths against their limit of infinite width.
rule infinite_width:
    input:
        subsets=inputs.width_subsets(PLAN),
        speed_limits="results/studies/{study}/speed_limits.csv",
        kernels="results/studies/{study}/kernels.csv",
    output:
        runs=report(
            "results/studies/{study}/infinite_width.csv",
            caption="../report/table.rst",
            category="Study {study}",
            subcategory="Tables",
            labels=inputs.report_labels(PLAN, "table", "infinite_width"),
        ),
        powers=report(
            "results/studies/{study}/infinite_width_powers.csv",
            caption="../report/table.rst",
            category="Study {study}",
            subcategory="Tables",
            labels=inputs.report_labels(PLAN, "table", "infinite_width_powers"),
        ),
    log:
        "results/logs/studies/{study}/infinite_width.log",
    benchmark:
        "results/benchmarks/studies/{study}/infinite_width.tsv"
    conda:
        "../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        settings=SETTINGS.of("infinite_width"),
    message:
        "Comparing the networks of the study {wildcards.study} with infinitely wide ones"
    script:
        "../scripts/infinite_width.py"


rule findings:
    input:
        unpack(inputs.findings_tables(PLAN)),
    output:
        text="results/studies/{study}/findings.md",
        page=report(
            "results/studies/{study}/findings.html",
            caption="../report/findings.rst",
            category="Study {study}",
            subcategory="Findings",
            labels=inputs.report_labels(PLAN, "page", "findings"),
        ),
    log:
        "results/logs/studies/{study}/findings.log",
    benchmark:
        "results/benchmarks/studies/{study}/findings.tsv"
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        settings=SETTINGS.of("findings"),
    message:
        "Writing what the study {wildcards.study} found"
    script:
        "../scripts/findings.py"
