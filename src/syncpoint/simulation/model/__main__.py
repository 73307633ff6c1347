"""`python -m syncpoint.simulation.model`: explore all scopes, refute all mutants, and say so.

    --scope NAME ...   only these scopes; `--list` names them
    --small            only the scopes that the tests explore
    --mutants          refute the mutants too (by the small scopes)
    --json             one JSON object on standard output; progress goes to standard error
    --transcripts DIR  write every counterexample there
    --play FILE        play a transcript, and print it with the states that its commands lead to now

The exit code is 1 if an invariant is broken, or a mutant is not refuted. Not for: what is explored (scopes.py).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from syncpoint.simulation.model.mutants import MUTANTS
from syncpoint.simulation.model.report import Report, explore_all, refute_all
from syncpoint.simulation.model.scopes import SCOPES, scope_named
from syncpoint.simulation.model.transcript import play


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.list:
        for scope in SCOPES:
            print(f"{scope.name:45} {scope.bounds()}")
        return 0
    if options.play:
        return _play(options.play)
    scopes = [scope_named(name) for name in options.scope] or [one for one in SCOPES if one.small or not options.small]
    say = _to_stderr if options.json else print
    report = Report()
    if not options.mutants_only:
        report.scopes = explore_all(scopes, say, workers=options.workers)
    if options.mutants or options.mutants_only:
        report.refutations = refute_all(MUTANTS, say, workers=options.workers)
    if options.transcripts:
        report.write_transcripts(options.transcripts)
    print(json.dumps(report.as_json(), indent=2) if options.json else report.summary())
    return 0 if report.is_good else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m syncpoint.simulation.model", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--scope", action="append", default=[], metavar="NAME", help="explore only this scope")
    parser.add_argument("--small", action="store_true", help="only the scopes that the tests explore")
    parser.add_argument("--mutants", action="store_true", help="refute the mutants too")
    parser.add_argument("--mutants-only", action="store_true", help="refute the mutants, explore nothing else")
    parser.add_argument("--list", action="store_true", help="name the scopes and their bounds")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes (default: 2)")
    parser.add_argument("--transcripts", type=Path, metavar="DIR", help="write every counterexample there")
    parser.add_argument("--play", type=Path, metavar="FILE", help="play a transcript")
    return parser


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _play(path: Path) -> int:
    text = path.read_text(encoding="utf-8")
    (name,) = [line.removeprefix("# scope: ") for line in text.splitlines() if line.startswith("# scope: ")]
    played = play(text, scope_named(name))
    print(played, end="")
    return 0 if "\nbroken: " not in played else 1


if __name__ == "__main__":
    sys.exit(main())
