"""`make spec`: check the specification in full, and say what was seen. With `--json` stdout has the figures alone.

    .venv/bin/python -m tests.spec.run [--json] [--quick] [--seeds N]

Not for: the tests (test_*.py), which are the reduced form.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

from tests.spec.corruption import corrupted
from tests.spec.liveness import LIVENESS
from tests.spec.rules import MODELS, QUICK_MODELS, RULES
from tests.spec.simulated import record_seeds
from tests.spec.tlc import validate

SEEDS = 10
"""About two thousand traces: all of it ends in about ten minutes on two idle cores."""


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when all is as it must be."""
    parser = argparse.ArgumentParser(prog="make spec", description="Check the specification.")
    parser.add_argument("--json", action="store_true", help="print one JSON document, and what is seen to stderr")
    parser.add_argument("--quick", action="store_true", help="only the small models")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many seeds of the simulator to record")
    options = parser.parse_args(arguments)
    say = partial(print, file=sys.stderr if options.json else sys.stdout, flush=True)
    began = time.perf_counter()
    figures = {
        **models(say, quick=options.quick),
        **rules(say),
        **traces(say, options.seeds),
        "seconds": round(time.perf_counter() - began, 1),
    }
    if options.json:
        print(json.dumps(figures, indent=2))
    good = is_good(figures)
    say("All is as it must be." if good else "NOT as it must be: see above.")
    return 0 if good else 1


def is_good(figures: dict[str, Any]) -> bool:
    """Whether nothing is violated that must hold, and everything is that must not."""
    return bool(
        all(module["result"] == module["expected"] for module in figures["modules"])
        and figures["counterexamples"] == figures["rules_dropped"]
        and not figures["traces_rejected"]
        and figures["traces_rejected_corrupted"] == figures["traces_corrupted"]
    )


def models(say: Any, *, quick: bool = False) -> dict[str, Any]:
    """Check every model, and liveness where it must hold and where it must fail."""
    seen = []
    for model in QUICK_MODELS if quick else (*MODELS, *LIVENESS):
        result = model.check(workers=2, seconds_max=3600)
        found = "violated" if result.violated else "green"
        say(f"{found:9} {result.distinct_states:9,} states {result.seconds:6.1f} s  {model.name}")
        seen.append(
            {
                "name": model.name,
                "module": model.module,
                "distinct_states": result.distinct_states,
                "seconds": round(result.seconds, 1),
                "result": found,
                "expected": model.expected,
            }
        )
    return {"modules": seen}


def rules(say: Any) -> dict[str, Any]:
    """Drop every rule, one at a time."""
    found = 0
    for rule in RULES:
        result = rule.check(workers=2)
        found += result.is_counterexample
        said = f"breaks {result.violated}" if result.violated else "GREEN WITHOUT IT"
        say(f"{rule.module:16} {rule.name:24} {said:32} {result.distinct_states:8,} states {result.seconds:5.1f} s")
    return {"rules_dropped": len(RULES), "counterexamples": found}


def traces(say: Any, seeds: int) -> dict[str, Any]:
    """Record seeds of the simulator, and have TLC judge what was recorded, and what was made wrong on purpose."""
    recorded = record_seeds(range(1, seeds + 1))
    good = validate(recorded, workers=2)
    say(f"{len(good.accepted):,} of {len(recorded):,} recorded traces accepted in {good.seconds:.1f} s")
    for trace, event in good.rejected:
        say(f"REJECTED at event {event}:\n{trace}")
    broken = list(corrupted(good.accepted, each=20))
    bad = validate([trace for _, trace in broken], workers=2)
    say(f"{len(bad.rejected):,} of {len(broken):,} corrupted traces rejected in {bad.seconds:.1f} s")
    for trace in bad.accepted:
        say(f"ACCEPTED though corrupted:\n{trace}")
    return {
        "traces_accepted": len(good.accepted),
        "traces_rejected": len(good.rejected),
        "traces_corrupted": len(broken),
        "traces_rejected_corrupted": len(bad.rejected),
        "corruptions": dict(Counter(name for name, _ in broken)),
    }


if __name__ == "__main__":
    sys.exit(main())
