rule ntk_start:
    input:
        subset="results/data/{dataset}/{subset}.nc",
    output:
        "results/runs/{dataset}/{subset}/{network}/start{realisation}/ntk.nc",
    log:
        "results/logs/runs/{dataset}/{subset}/{network}/ntk_start{realisation}.log",
    benchmark:
        "results/benchmarks/runs/{dataset}/{subset}/{network}/ntk_start{realisation}.tsv"
    conda:
        inputs.torch_environment(COMPUTE["device"])
    threads: COMPUTE["kernel_threads"]
    resources:
        mem_mb=inputs.kernel_megabytes(SETTINGS),
        runtime=240,
        gpu=inputs.gpu_count(COMPUTE["device"]),
        device=COMPUTE["device"],
        deterministic=int(COMPUTE["deterministic"]),
        kernel_memory_mb=int(1000 * CONFIG["kernel"]["memory_gb"]),
    params:
        settings=SETTINGS.of("ntk_start"),
    message:
        "NTK at the start, realisation {wildcards.realisation} of {wildcards.network} on {wildcards.subset}"
    script:
        "../scripts/ntk.py"


rule ntk_warm:
    input:
        subset="results/data/{dataset}/{subset}.nc",
        manifest="results/runs/{dataset}/{subset}/{network}/{dynamics}/realisation{realisation}/snapshots.json",
        warm_start="results/runs/{dataset}/{subset}/{network}/{dynamics}/ensemble{realisations}/warm_start.json",
    output:
        "results/runs/{dataset}/{subset}/{network}/{dynamics}/ensemble{realisations}/ntk_warm{realisation}.nc",
    log:
        "results/logs/runs/{dataset}/{subset}/{network}/{dynamics}/ntk_warm{realisation}_of{realisations}.log",
    benchmark:
        "results/benchmarks/runs/{dataset}/{subset}/{network}/{dynamics}/ntk_warm{realisation}_of{realisations}.tsv"
    conda:
        inputs.torch_environment(COMPUTE["device"])
    threads: COMPUTE["kernel_threads"]
    resources:
        mem_mb=inputs.kernel_megabytes(SETTINGS),
        runtime=240,
        gpu=inputs.gpu_count(COMPUTE["device"]),
        device=COMPUTE["device"],
        deterministic=int(COMPUTE["deterministic"]),
        kernel_memory_mb=int(1000 * CONFIG["kernel"]["memory_gb"]),
    params:
        settings=SETTINGS.of("ntk_warm"),
    message:
        "NTK at the warm start, realisation {wildcards.realisation} of {wildcards.network} on {wildcards.subset}"
    script:
        "../scripts/ntk.py"


rule ntk_end:
    input:
        subset="results/data/{dataset}/{subset}.nc",
        manifest="results/runs/{dataset}/{subset}/{network}/{dynamics}/realisation{realisation}/snapshots.json",
    output:
        "results/runs/{dataset}/{subset}/{network}/{dynamics}/realisation{realisation}/ntk_end.nc",
    log:
        "results/logs/runs/{dataset}/{subset}/{network}/{dynamics}/ntk_end{realisation}.log",
    benchmark:
        "results/benchmarks/runs/{dataset}/{subset}/{network}/{dynamics}/ntk_end{realisation}.tsv"
    conda:
        inputs.torch_environment(COMPUTE["device"])
    threads: COMPUTE["kernel_threads"]
    resources:
        mem_mb=inputs.kernel_megabytes(SETTINGS),
        runtime=240,
        gpu=inputs.gpu_count(COMPUTE["device"]),
        device=COMPUTE["device"],
        deterministic=int(COMPUTE["deterministic"]),
        kernel_memory_mb=int(1000 * CONFIG["kernel"]["memory_gb"]),
    params:
        settings=SETTINGS.of("ntk_end"),
    message:
        "NTK at the end, realisation {wildcards.realisation} of {wildcards.network} on {wildcards.subset}"
    script:
        "../scripts/ntk.py"
