from pipeline.code_digest import code_digest

# Linear regression: n/d below, at and above interpolation; gradient flow, mild and strong noise.
# 16 dimensions, so that 4000 realisations >> 16^2 fit the covariances; 400 for the limit of large d.
THEORY_REGRESSION = {
    "ratios": [0.5, 1.0, 3.0],
    "temperatures": [0.0, 0.1, 1.0],
    "dimensions": [16, 400],
    "start_variance": 0.1,
    "noise_variance": 0.1,
    "first_time": 0.01,
    "final_time": 20.0,
    "first_simulated_time": 0.1,
    "simulated_times": 7,
    "step_lambda_1": 0.02,
    "realisations": 4000,
    "groups": 8,
}
# Two pairs of the optimal regime far from its edges, one near delta = 1, the logarithm, the growth.
THEORY_POWER_LAW = {
    "exponents": [
        [1.5, 0.5],
        [2.0, 0.0],
        [2.0, 0.5],
        [3.0, 0.9],
        [2.0, 1.0],
        [2.0, 2.0],
    ],
    "count": 50000,
    "final_time": 1.0e6,
}
# figure -> argument of the function plots.theory.<figure> -> table
THEORY_FIGURES = {
    "linear_regression": {"table": "regression_routes"},
    "linear_regression_limits": {
        "starts": "regression_starts",
        "noise": "regression_noise",
    },
    "phase_diagram": {"grid": "phases"},
    "convergence": {"table": "convergence"},
    "spectra": {"spectrum": "spectra", "predictions": "spectra_predictions"},
}


wildcard_constraints:
    theory_figure="|".join(THEORY_FIGURES),


localrules:
    theory,


rule theory:
    input:
        expand(
            "results/theory/figures/{theory_figure}.{ending}",
            theory_figure=THEORY_FIGURES,
            ending=["png", "pdf"],
        ),


rule theory_linear_regression:
    output:
        routes="results/theory/regression_routes.csv",
        starts="results/theory/regression_starts.csv",
        noise="results/theory/regression_noise.csv",
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
        settings={
            "code": code_digest("theory_linear_regression.py"),
            "seed": CONFIG["seed"],
            **THEORY_REGRESSION,
        },
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
        settings={"code": code_digest("theory_power_law.py"), **THEORY_POWER_LAW},
    message:
        "Power laws and other spectra: phase diagram, convergence, inefficiencies"
    script:
        "../scripts/theory_power_law.py"


rule theory_figure:
    input:
        unpack(
            lambda wildcards: {
                argument: f"results/theory/{table}.csv"
                for argument, table in THEORY_FIGURES[wildcards.theory_figure].items()
            }
        ),
    output:
        png="results/theory/figures/{theory_figure}.png",
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
        settings=lambda wildcards: {
            "code": code_digest("theory_figure.py"),
            "dpi": CONFIG["figures"]["dpi"],
            "draw": wildcards.theory_figure,
        },
    message:
        "Drawing {wildcards.theory_figure} of the theory"
    script:
        "../scripts/theory_figure.py"


rule theory_phase_diagram_measured:
    input:
        grid="results/theory/phases.csv",
        exponents=expand("results/studies/{study}/exponents.csv", study=PLAN.studies),
    output:
        png="results/theory/figures/phase_diagram_measured.png",
        pdf="results/theory/figures/phase_diagram_measured.pdf",
    log:
        "results/logs/theory/figures/phase_diagram_measured.log",
    benchmark:
        "results/benchmarks/theory/figures/phase_diagram_measured.tsv"
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        settings={
            "code": code_digest("theory_figure.py"),
            "dpi": CONFIG["figures"]["dpi"],
            "draw": "phase_diagram",
        },
    message:
        "Placing the measured exponents on the phase diagram"
    script:
        "../scripts/theory_figure.py"
