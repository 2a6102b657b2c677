rule figure:
    input:
        unpack(inputs.figure_tables),
    output:
        png=report(
            "results/studies/{study}/figures/{figure}.png",
            caption="../report/figure.rst",
            category="Study {study}",
            subcategory="Figures",
            labels=inputs.report_labels(PLAN, "figure"),
        ),
        pdf="results/studies/{study}/figures/{figure}.pdf",
    log:
        "results/logs/studies/{study}/figures/{figure}.log",
    benchmark:
        "results/benchmarks/studies/{study}/figures/{figure}.tsv"
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        settings=SETTINGS.of("figure"),
    message:
        "Drawing {wildcards.figure} of the study {wildcards.study}"
    script:
        "../scripts/figure.py"


# Two of the first experiments of the paper's summary, each a figure of a study with its tables; the
# third, experiment_perceptron, is in theory.smk.
rule experiment_dataset_size:
    input:
        inputs.experiment(PLAN, "dataset_size", "inefficiency_size"),
    localrule: True


rule experiment_width:
    input:
        inputs.experiment(PLAN, "infinite_width", "infinite_width"),
    localrule: True
