"""`syncpoint simulate --mutants`: break the code in known ways, and say by what each was caught.

Not for: the mutants (simulation/mutants.py).
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from syncpoint.cli.output import Output

__all__ = ["run_mutants"]


def run_mutants(out: Output, jobs: int | None) -> int:
    """Try every mutant; returns the exit code: 1 if one was not caught."""
    from syncpoint.simulation.catching import of_the_model, try_all
    from syncpoint.simulation.mutants import MUTANTS

    catches = []
    columns = (TextColumn("mutants"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[last]}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("mutants", total=len(MUTANTS), last="")
        for catch in try_all(list(MUTANTS), jobs):
            catches.append(catch)
            progress.update(task, advance=1, last=f"{catch.mutant}: {catch.by or 'NOT CAUGHT'}")
        progress.update(task, last="the model refutes those of the protocol")
        catches += of_the_model(jobs)
    catches.sort(key=lambda catch: (catch.where, catch.mutant))
    caught = [catch for catch in catches if catch.by]
    document: dict[str, Any] = {
        "mutants": len(catches),
        "caught": len(caught),
        "by": dict(Counter(catch.by for catch in caught)),
        "each": catches,
    }
    out.document(document, lambda: _table(catches))
    return 0 if len(caught) == len(catches) else 1


def _table(catches: list[Any]) -> Group:
    table = Table("file", "mutant", "breaks", "caught by", "seeds", "seen", box=None, pad_edge=False)
    for catch in catches:
        table.add_row(catch.where, catch.mutant, catch.rule, catch.by or "NOTHING", str(catch.seeds), catch.what[:100])
    caught = sum(bool(catch.by) for catch in catches)
    return Group(table, f"{caught} of {len(catches)} mutants caught")
