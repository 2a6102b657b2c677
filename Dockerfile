# An image with the environment of make demo. Build it in a checkout, and run it there with the folders
# in which results and Snakemake's records of them stay, as their owner:
#   docker build --tag speedlimits .
#   mkdir -p .snakemake
#   docker run --rm --user "$(id -u):$(id -g)" --hostname "$(hostname)" \
#       -v "$PWD/results:/speedlimits/results" -v "$PWD/.snakemake:/speedlimits/.snakemake" speedlimits
# That runs make demo; a command behind the name of the image replaces it: snakemake --cores 8, or
# make report REPORT=results/report.html. Files of your own (configuration, data, network) come in by one
# more -v each. Under one host name a run after a killed one continues; under the random ones that Docker
# gives, it asks for snakemake --unlock. Where pip by itself finds a CUDA build of torch, an index of CPU
# builds makes the image smaller (2.2 GB): docker build --build-arg PIP_EXTRA_INDEX_URL=https://...
# Tried with Docker, buildah and podman, on a Debian 12 with its Python 3.11 in place of the image below.
FROM docker.io/library/python:3.11-slim-bookworm
# Whoever runs the image does not own the checkout in it, whose commit the provenance names.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/* \
    && git config --system --add safe.directory /speedlimits
WORKDIR /speedlimits
COPY requirements.txt Makefile ./
ARG PIP_EXTRA_INDEX_URL
RUN PIP_NO_CACHE_DIR=1 make .venv/.installed
COPY . .
# Newer than the files just copied, so that make leaves the environment as it is.
RUN touch .venv/.installed
# Under --user the home is / or missing, where Snakemake and Matplotlib cannot keep their caches, and the
# user has no name in the image, which Snakemake asks for.
ENV HOME=/tmp USER=speedlimits PATH=/speedlimits/.venv/bin:$PATH
CMD ["make", "demo"]
