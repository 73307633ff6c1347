"""`make fuzz`: every decoder for some seconds, guided by coverage (atheris); or one finding replayed.

    python -m tests.fuzz.run [--seconds 60] [NAME ...]     each decoder named, or all; JSON figures on stdout
    python -m tests.fuzz.run --replay FILE                 feed a finding once more: tests/fuzz/findings/NAME/…

What was learned stays in .fuzz/corpus, so that the next run goes on from there; delete it to begin anew. A finding is
kept in .fuzz/findings/NAME. Once mended, move it to tests/fuzz/findings/NAME: the tests replay it from then on.
Not for: the short form (test_garbage.py).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.fuzz.decoders import DECODERS

ROOT = Path(__file__).parent.parent.parent
KEPT = ROOT / ".fuzz"
INPUT_SIZE_BYTES_MAX = 4096
ONE_INPUT_S_MAX = 10  # a decoder that takes longer for so little hangs
MEMORY_MB_MAX = 1024
SLACK_S = 300  # for the start on a busy machine, and for one last slow input
_RUNS = re.compile(r"stat::number_of_executed_units:\s*(\d+)")
_COVERED = re.compile(r"\bcov: (\d+)")


def fuzz(name: str, seconds: int) -> dict[str, Any]:
    """One decoder for so many seconds; the figures, with the findings' files and the command that replays the first."""
    corpus, findings = KEPT / "corpus" / name, KEPT / "findings" / name
    for folder in (corpus, findings):
        folder.mkdir(parents=True, exist_ok=True)
    for seed in DECODERS[name].seeds:
        (corpus / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    before = set(findings.iterdir())
    limits = (f"-max_total_time={seconds}", f"-max_len={INPUT_SIZE_BYTES_MAX}", f"-timeout={ONE_INPUT_S_MAX}")
    memory = (f"-rss_limit_mb={MEMORY_MB_MAX}", f"-malloc_limit_mb={MEMORY_MB_MAX // 2}")
    command = [sys.executable, "-m", "tests.fuzz.child", name, *limits, *memory]
    command += ["-print_final_stats=1", f"-artifact_prefix={findings}/", str(corpus)]
    code, said = _run(command, seconds + SLACK_S)
    found = sorted(str(one.relative_to(ROOT)) for one in set(findings.iterdir()) - before)
    runs, covered = _RUNS.findall(said), _COVERED.findall(said)
    figures: dict[str, Any] = {
        "inputs": int(runs[-1]) if runs else 0,
        "covered": int(covered[-1]) if covered else 0,
        "findings": found,
    }
    if code or found:
        figures["said"] = said[-2000:]
    if found:
        figures["replay"] = f"python -m tests.fuzz.run --replay {found[0]}"
    return figures


def _run(command: list[str], seconds: int) -> tuple[int, str]:
    """(exit code, what it said); one that never ends is ended, and has failed."""
    try:
        done = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        return 1, f"{(error.stderr or b'').decode(errors='replace')}\nended after {seconds} s"
    return done.returncode, done.stderr.decode(errors="replace")


def replay(finding: Path) -> None:
    """Raises what the decoder raises."""
    accepted = DECODERS[finding.resolve().parent.name].feed(finding.read_bytes())
    print("accepted" if accepted else "refused, as it should be")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60, help="for each decoder")
    parser.add_argument("--replay", type=Path, metavar="FILE")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(DECODERS))
    asked = parser.parse_args()
    if asked.replay is not None:
        replay(asked.replay)
        return 0
    by_name: dict[str, Any] = {}
    for name in asked.names or DECODERS:
        by_name[name] = fuzz(name, asked.seconds)
        print(f"{name}: {by_name[name]['inputs']} inputs, findings: {by_name[name]['findings']}", file=sys.stderr)
    wrong = [name for name, one in by_name.items() if one["findings"] or "said" in one]
    figures = {
        "decoders": len(by_name),
        "seconds_each": asked.seconds,
        "inputs": sum(one["inputs"] for one in by_name.values()),
        "findings": sum(len(one["findings"]) for one in by_name.values()),
        "failed": wrong,
        "by_decoder": by_name,
    }
    print(json.dumps(figures, indent=2))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
