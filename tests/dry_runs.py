"""Many dry runs of Snakemake in one checkout, without paying for its start-up each time.

A server process imports Snakemake once and forks a child for every dry run. The child imports the
checkout's own modules afresh and runs Snakemake's command line as the shell would, shipped profile
included; the jobs, their files and whether they are to run come from Snakemake's own graph.
"""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path


class DryRuns:
    """Dry runs in one folder; a context manager that ends the server process.

    Args:
        folder: a checkout.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        command = [sys.executable, str(Path(__file__).resolve())]
        environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
        self.server = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.server.stdin.close()
        self.server.wait(timeout=30)

    def plan(self, *arguments: str) -> list[dict]:
        """Return every job of the graph: rule, wildcards, files, rules of its benchmark file
        (by its name), and its reason to run.

        Args:
            arguments: of snakemake, besides ``-n``.

        Raises:
            RuntimeError: with what Snakemake printed, if it refuses.
        """
        self.server.stdin.write(json.dumps(["-n", *arguments]).encode() + b"\n")
        self.server.stdin.flush()
        answer = json.loads(self.server.stdout.readline())
        if answer["status"]:
            raise RuntimeError(answer["told"])
        return answer["jobs"]


def dry_run(arguments: list[str], answer) -> None:
    """Run Snakemake's command line once; write the jobs of its graph to a file."""
    from snakemake.cli import main
    from snakemake.workflow import Workflow

    seen, execute = [], Workflow.execute

    def execute_and_keep(self, *positional, **named):
        seen.append(self)
        return execute(self, *positional, **named)

    Workflow.execute = execute_and_keep
    status = 0
    try:
        main(arguments)
    except SystemExit as end:
        status = end.code or 0
        if isinstance(status, str):  # as Python itself does at the end of a process
            print(status, file=sys.stderr)
    found = []
    if not status:
        dag = seen[0].dag
        needed = set(dag.needrun_jobs(exclude_finished=False))
        rules = [rule for rule in seen[0].rules if rule.benchmark]
        for job in dag.jobs:
            benchmark = str(job.benchmark or "")
            found.append(
                {
                    "rule": job.rule.name,
                    "wildcards": dict(job.wildcards_dict),
                    "input": sorted(map(str, job.input)),
                    "output": sorted(map(str, job.output)),
                    "log": sorted(map(str, job.log)),
                    "benchmark": benchmark,
                    "benchmark_of": [
                        rule.name
                        for rule in rules
                        if re.fullmatch(rule.benchmark.regex(), benchmark)
                    ],
                    "reason": str(dag.reason(job)) if job in needed else "",
                }
            )
    answer.write(json.dumps({"status": status, "jobs": found}))


def serve() -> None:
    """Answer every line of arguments with a line of jobs, each from a child of its own."""
    # What a dry run imports, short of the checkout's own modules.
    for name in ("cli", "dag", "executors.dryrun", "persistence", "scheduling.greedy", "workflow"):
        importlib.import_module(f"snakemake.{name}")
    importlib.import_module("jsonschema")

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        reply, told = Path(".dry_run_reply"), Path(".dry_run_output")
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with told.open("w") as output, reply.open("w") as answer:
                    os.dup2(output.fileno(), 1)
                    os.dup2(output.fileno(), 2)
                    dry_run(json.loads(line), answer)
                code = 0
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        text = reply.read_text()
        found = json.loads(text) if text and not status else {"status": 1, "jobs": []}
        found["told"] = told.read_text()
        answers.write(json.dumps(found) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve()
