# On a cluster the node that plans the jobs has the way to the internet.
localrules:
    download,


rule download:
    output:
        ensure("results/data/cifar10/archive.tar.gz", sha256=SETTINGS.archive_sha256),
    log:
        "results/logs/download.log",
    benchmark:
        "results/benchmarks/download.tsv"
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=500,
        runtime=60,
    params:
        settings=SETTINGS.download(),
    message:
        "Fetching CIFAR-10 and checking its SHA-256"
    script:
        "../scripts/download.py"


rule prepare:
    input:
        inputs.data_source(CONFIG),
    output:
        "results/data/{dataset}/images.nc",
    log:
        "results/logs/data/{dataset}/prepare.log",
    benchmark:
        "results/benchmarks/data/{dataset}/prepare.tsv"
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=20,
    params:
        settings=SETTINGS.of("prepare"),
    message:
        "Reading the data set {wildcards.dataset}"
    script:
        "../scripts/prepare.py"


rule subset:
    input:
        "results/data/{dataset}/images.nc",
    output:
        "results/data/{dataset}/{subset}.nc",
    log:
        "results/logs/data/{dataset}/{subset}.log",
    benchmark:
        "results/benchmarks/data/{dataset}/{subset}.tsv"
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=20,
    params:
        settings=SETTINGS.of("subset"),
    message:
        "Drawing the training subset {wildcards.subset} of {wildcards.dataset}"
    script:
        "../scripts/subset.py"
