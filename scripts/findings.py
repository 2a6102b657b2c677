"""Write what a study found, in sentences made from its tables alone (package ``sentences``)."""

import quick_start  # noqa: F401

from pipeline.files import recorded
from pipeline.log import logged
from pipeline.pages import from_markdown
from pipeline.stores import read_table
from sentences.study import findings


def main(snakemake) -> None:
    """Run the rule ``findings``."""
    with logged(snakemake.log[0]):
        tables = {name: read_table(path) for name, path in snakemake.input.items()}
        text = findings(tables, snakemake.wildcards.study, snakemake.params.settings)
        print(text)
        for path, content in {
            snakemake.output.text: text,
            snakemake.output.page: from_markdown(text),
        }.items():
            with recorded(path) as partial:
                partial.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
