# An image with the environment of make demo. Build it in a checkout, and run it there with the folders
# in which results and Snakemake's records of them stay:
#   docker build --tag speedlimits .
#   docker run --rm -v "$PWD/results:/speedlimits/results" -v "$PWD/.snakemake:/speedlimits/.snakemake" speedlimits
# That runs make demo; a command behind the name of the image replaces it: snakemake --cores 8
FROM docker.io/library/python:3.11-slim-bookworm
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /speedlimits
COPY requirements.txt Makefile ./
RUN make .venv/.installed
COPY . .
# Newer than the files just copied, so that make leaves the environment as it is.
RUN touch .venv/.installed
ENV PATH=/speedlimits/.venv/bin:$PATH
CMD ["make", "demo"]
