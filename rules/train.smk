rule time_unit:
    input:
        "results/data/{dataset}/{subset}.nc",
    output:
        "results/runs/{dataset}/{subset}/{network}/time_unit.json",
    log:
        "results/logs/runs/{dataset}/{subset}/{network}/time_unit.log",
    benchmark:
        "results/benchmarks/runs/{dataset}/{subset}/{network}/time_unit.tsv"
    conda:
        inputs.torch_environment(COMPUTE["device"])
    threads: COMPUTE["kernel_threads"]
    resources:
        mem_mb=4000,
        runtime=60,
        gpu=inputs.gpu_count(COMPUTE["device"]),
        device=COMPUTE["device"],
        deterministic=int(COMPUTE["deterministic"]),
    params:
        settings=SETTINGS.of("time_unit"),
    message:
        "Measuring lambda_1 of {wildcards.network} on {wildcards.subset}"
    script:
        "../scripts/time_unit.py"


rule train:
    input:
        subset="results/data/{dataset}/{subset}.nc",
        time_unit="results/runs/{dataset}/{subset}/{network}/time_unit.json",
    output:
        manifest="results/runs/{dataset}/{subset}/{network}/{dynamics}/realisation{realisation}/snapshots.json",
    log:
        "results/logs/runs/{dataset}/{subset}/{network}/{dynamics}/train{realisation}.log",
    benchmark:
        "results/benchmarks/runs/{dataset}/{subset}/{network}/{dynamics}/train{realisation}.tsv"
    conda:
        inputs.torch_environment(COMPUTE["device"])
    threads: COMPUTE["train_threads"]
    resources:
        mem_mb=4000,
        runtime=1440,
        gpu=inputs.gpu_count(COMPUTE["device"]),
        device=COMPUTE["device"],
        deterministic=int(COMPUTE["deterministic"]),
    params:
        settings=SETTINGS.of("train"),
        store="results/runs/{dataset}/{subset}/{network}/{dynamics}/realisation{realisation}/snapshots.zarr",
    message:
        "Training realisation {wildcards.realisation} of {wildcards.network} on {wildcards.subset}"
    script:
        "../scripts/train.py"


rule warm_start:
    input:
        manifests=inputs.ensemble_manifests(PLAN),
    output:
        "results/runs/{dataset}/{subset}/{network}/{dynamics}/ensemble{realisations}/warm_start.json",
    log:
        "results/logs/runs/{dataset}/{subset}/{network}/{dynamics}/warm_start{realisations}.log",
    benchmark:
        "results/benchmarks/runs/{dataset}/{subset}/{network}/{dynamics}/warm_start{realisations}.tsv"
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        settings=SETTINGS.of("warm_start"),
    message:
        "Finding the warm start of {wildcards.network} on {wildcards.subset}"
    script:
        "../scripts/warm_start.py"
