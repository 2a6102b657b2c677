wildcard_constraints:
    theory_figure="|".join(THEORY_FIGURES),


localrules:
    theory,


rule theory:
    input:
        expand(
            "results/theory/figures/{theory_figure}.png",
            theory_figure=[name for name in THEORY_FIGURES if name not in EXPERIMENTS],
        ),


# The linear perceptron on synthetic Gaussian data against the analytical expressions.
rule experiment_perceptron:
    input:
        expand(
            "results/theory/figures/{theory_figure}.png",
            theory_figure=[
                name for name in THEORY_FIGURES if name.startswith("linear_regression")
            ],
        ),
    localrule: True


# T_SL and inefficiency of networks against temperature.
rule experiment_langevin_temperature:
    input:
        "results/theory/figures/langevin_temperature.png",
    localrule: True


rule theory_langevin:
    input:
        inputs.langevin_subsets(PLAN, CONFIG),
    output:
        "results/theory/langevin_temperature.csv",
    log:
        "results/logs/theory/langevin.log",
    benchmark:
        "results/benchmarks/theory/langevin.tsv"
    conda:
        "../envs/torch.yaml"
    threads: COMPUTE["train_threads"]
    resources:
        mem_mb=inputs.langevin_megabytes(SETTINGS),
        runtime=240,
        kernel_memory_mb=int(1000 * CONFIG["kernel"]["memory_gb"]),
    params:
        settings=SETTINGS.of("theory_langevin"),
    message:
        "Langevin dynamics of networks over temperature"
    script:
        "../scripts/theory_langevin.py"


rule theory_linear_regression:
    output:
        routes="results/theory/regression_routes.csv",
        checks="results/theory/regression_checks.csv",
        starts="results/theory/regression_starts.csv",
        noise="results/theory/regression_noise.csv",
        equation_6="results/theory/regression_equation_6.csv",
    log:
        "results/logs/theory/linear_regression.log",
    benchmark:
        "results/benchmarks/theory/linear_regression.tsv"
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=20,
    params:
        settings=SETTINGS.of("theory_linear_regression"),
    message:
        "Linear regression: closed forms, Marchenko-Pastur limit and simulated ensembles"
    script:
        "../scripts/theory_linear_regression.py"


rule theory_power_law:
    output:
        phases="results/theory/phases.csv",
        convergence="results/theory/convergence.csv",
        spectra="results/theory/spectra.csv",
        predictions="results/theory/spectra_predictions.csv",
    log:
        "results/logs/theory/power_law.log",
    benchmark:
        "results/benchmarks/theory/power_law.tsv"
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        settings=SETTINGS.of("theory_power_law"),
    message:
        "Power laws and other spectra: phase diagram, convergence, inefficiencies"
    script:
        "../scripts/theory_power_law.py"


# The networks of the plain command's studies, placed in the theory.
rule theory_measured:
    input:
        exponents=expand(
            "results/studies/{study}/exponents.csv", study=PLAN.default_studies
        ),
        spectra=expand("results/studies/{study}/spectra.nc", study=PLAN.default_studies),
    output:
        exponents="results/theory/measured_exponents.csv",
        spectra="results/theory/measured_spectra.csv",
        predictions="results/theory/measured_predictions.csv",
    log:
        "results/logs/theory/measured.log",
    benchmark:
        "results/benchmarks/theory/measured.tsv"
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        settings=SETTINGS.of("theory_measured"),
    message:
        "Placing the measured exponents and spectra in the theory"
    script:
        "../scripts/theory_measured.py"


rule theory_figure:
    input:
        unpack(
            lambda wildcards: {
                argument: f"results/theory/{table}.csv"
                for argument, table in THEORY_FIGURES[wildcards.theory_figure].items()
            }
        ),
    output:
        png=report(
            "results/theory/figures/{theory_figure}.png",
            caption="../report/theory_figure.rst",
            category="Theory",
            labels=lambda wildcards: {
                "figure": wildcards.theory_figure.replace("_", " ")
            },
        ),
        pdf="results/theory/figures/{theory_figure}.pdf",
    log:
        "results/logs/theory/figures/{theory_figure}.log",
    benchmark:
        "results/benchmarks/theory/figures/{theory_figure}.tsv"
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        settings=SETTINGS.of("theory_figure"),
    message:
        "Drawing {wildcards.theory_figure} of the theory"
    script:
        "../scripts/theory_figure.py"
