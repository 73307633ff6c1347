"""A deliberate bug is caught, made smaller, and shown; the command says how to see it again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from syncpoint.simulation import timeline
from syncpoint.simulation.catching import try_mutant
from syncpoint.simulation.mutants import MUTANTS
from syncpoint.simulation.run import Options, run_seed
from syncpoint.simulation.shrink import shrink

QUICK = (
    "decide without a record",
    "drop phase two",
    "a lost vote is a yes",
    "forget the result",
    "end without acknowledgement",
    "recover what living processes work on",
    "lose votes in a restart",
)


@pytest.mark.parametrize("name", QUICK)
def test_a_mutant_is_caught(name: str) -> None:
    catch = try_mutant(name, seeds_max=15)
    assert catch.by == "simulate", f"{catch.seeds} seeds saw nothing"
    assert catch.what


def test_mutants_patch_what_is_there_and_take_it_back() -> None:
    for mutant in MUTANTS.values():
        with mutant.patch():
            pass
    assert run_seed(1).violations == ()


def test_a_failure_is_made_smaller() -> None:
    mutant = MUTANTS["a lost vote is a yes"]
    with mutant.patch():
        failing = next(seed for seed in range(1, 30) if run_seed(seed).violations)
        whole = run_seed(failing)
        small = shrink(failing, Options())
    assert small.violations
    assert 1 <= len(small.plan) < len(whole.plan)


def test_what_does_not_fail_cannot_be_made_smaller() -> None:
    with pytest.raises(ValueError, match="does not fail"):
        shrink(1, Options())


def test_a_timeline_names_what_happened() -> None:
    outcome = run_seed(1, Options(keep_events=True))
    lines = list(timeline.lines(outcome.events))
    assert len(lines) == len(outcome.events) > 1000
    begun = next(event for event in outcome.events if "is transaction" in event.what)
    about = begun.what.split()[3].rstrip(",")
    chosen = timeline.select(outcome.events, about=about)
    assert any(event.to for event in chosen)
    assert len(chosen) < len(outcome.events) / 10


def test_a_diagram_is_well_formed_and_bounded() -> None:
    outcome = run_seed(1, Options(keep_events=True))
    root = ElementTree.fromstring(timeline.svg(outcome.events, "seed <1>"))  # our own text
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[0] is not None
    assert texts[0].startswith("seed <1> (the first")
    assert "bank" in texts or "ledger" in texts
    assert len(texts) < 3 * timeline.EVENTS_MAX


# --- the command ----------------------------------------------------------------------------------------------------


def _command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("syncpoint"), *words], capture_output=True, text=True, timeout=120, check=False
    )


def test_the_command_sums_up(tmp_path: Path) -> None:
    done = _command("simulate", "--seeds", "1:4", "--twice", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["seeds"], said["violations"], said["repeated"], said["differing"]) == (4, 0, 4, [])
    assert said["virtual_s_min"] >= 60


def test_the_command_shows_one_seed(tmp_path: Path) -> None:
    picture = tmp_path / "seed.svg"
    done = _command("simulate", "--seed", "2", "--trace", "--svg", str(picture), "--until", "1")
    assert done.returncode == 0, done.stderr
    assert "no violation" in done.stdout
    assert "starts" in done.stdout
    assert picture.read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--seeds", "9:1"], "no range of seeds"),
        (["--seeds", "x"], "no range of seeds"),
        (["--workload", "nothing"], "--workload nothing is not known"),
        (["--journal", "nothing"], "--journal nothing is not known"),
        (["--faults", "kill,nothing"], "--faults nothing is not known"),
        (["--trace"], "are for one seed"),
        (["--seed", "1", "--only", "x"], "no list of numbers"),
        (["--seed", "1", "--svg", "/nowhere/at/all.svg"], "could not be written"),
    ],
)
def test_the_command_says_what_is_wrong(words: list[str], told: str) -> None:
    done = _command("simulate", *words)
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr
