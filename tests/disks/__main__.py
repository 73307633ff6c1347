"""`make disks`: everything about disks in full. Progress on stderr; figures as one JSON object on stdout.

python -m tests.disks [--lots 60] [--cuts 200]

crash_states     different states that were opened and checked, with what had been told by then
of               how many states there are: of most points a sample is drawn, with a fixed seed
power_cuts       real ones; `fs` says under which file systems
injected_faults  system calls that failed, lied or killed
lost, invented   violations: acknowledged and not there; there and never asked for, or aborted
not_done         what this machine does not allow, and why
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tests.disks import faults
from tests.disks.bank_power import PoweredBank
from tests.disks.exploring import FULL, Explored, explore_named
from tests.disks.faults import FaultyBank
from tests.disks.journal_power import cut_power
from tests.disks.loop import LoopDisk, why_not
from tests.disks.sweep import SWEPT, sweep
from tests.disks.workloads import NAMED
from tests.disks.zygote import Zygote

LOTS = 60
CUTS = 200
CUTS_IN_A_ROW = 20
PARTS = ("power_cuts", "injected_faults", "crash_states")
INVENTED = ("invented", "came back", "second writer", "aborted, but there", "committed after all", "twice")


@dataclass
class Figures:
    """What is printed at the end."""

    crash_states: int = 0
    of: int = 0
    second_crashes: int = 0
    power_cuts: int = 0
    fs: list[str] = field(default_factory=list)
    injected_faults: int = 0
    lost: int = 0
    invented: int = 0
    not_done: dict[str, str] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def violated(self, error: AssertionError) -> None:
        text = str(error)
        if any(word in text for word in INVENTED):
            self.invented += 1
        else:
            self.lost += 1
        self.violations.append(text[:2000])
        tell(f"VIOLATION: {text[:2000]}")


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# --- parts -------------------------------------------------------------------------------------------------------


def crash_states(figures: Figures, lots: int) -> None:
    names = [*NAMED, *(f"lot {seed}" for seed in range(lots))]
    with ProcessPoolExecutor(max_workers=min(2, os.cpu_count() or 1)) as pool:
        for name, (explored, broken) in zip(names, pool.map(_explored, names), strict=True):
            figures.crash_states += explored.states
            figures.of += explored.of
            figures.second_crashes += explored.second
            if broken:
                figures.violated(AssertionError(broken))
            tell(f"crash states: {name}: {explored.states} of {explored.of}; {figures.crash_states} in all")


def _explored(name: str) -> tuple[Explored, str]:
    try:
        return explore_named(name, FULL), ""
    except AssertionError as error:
        return Explored(), str(error)


def power_cuts(figures: Figures, cuts: int) -> None:
    kinds = []
    for kind in ("ext4", "xfs"):
        reason = why_not(kind)
        if reason:
            figures.not_done[f"power cuts under {kind}"] = reason
        else:
            kinds.append(kind)
    figures.fs = kinds
    if not kinds:
        return
    plays = [partial(_cut_journal, kind) for kind in kinds] + [
        partial(_cut_bank, kind, disks) for kind in kinds for disks in (1, 2)
    ]
    turn = 0
    while figures.power_cuts < cuts:
        number = min(CUTS_IN_A_ROW, cuts - figures.power_cuts)
        plays[turn % len(plays)](figures, number, turn * CUTS_IN_A_ROW)
        turn += 1


def _cut_journal(kind: str, figures: Figures, cuts: int, seed: int) -> None:
    with LoopDisk(kind) as disk, Zygote() as zygote:
        _cut(f"{kind}, journal", figures, cuts, lambda number: cut_power(disk, zygote, seed + number)[1])


def _cut_bank(kind: str, disks: int, figures: Figures, cuts: int, seed: int) -> None:
    with Zygote() as zygote, PoweredBank(kind, zygote, disks=disks) as bank:
        where = f"{kind}, databases and journal on {disks} disk{'s' * (disks > 1)}"
        _cut(where, figures, cuts, lambda number: bank.cut_power(seed + number))


def _cut(where: str, figures: Figures, cuts: int, cut: Callable[[int], int]) -> None:
    acknowledged = 0
    for number in range(cuts):
        try:
            acknowledged += cut(number)
        except AssertionError as error:
            figures.power_cuts += 1
            figures.violated(AssertionError(f"{where}: {error}"))
            return
        figures.power_cuts += 1
    tell(f"power cuts: {where}: {cuts}, {acknowledged} acknowledged before them; {figures.power_cuts} in all")


def injected_faults(figures: Figures) -> None:
    reason = faults.why_not()
    if reason:
        figures.not_done["faults in system calls"] = reason
        return
    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory()))
        zygote = held.enter_context(Zygote())
        bank = FaultyBank(folder, zygote)
        for kind in SWEPT:
            before = figures.injected_faults
            try:
                for _ in sweep(bank, kind):
                    figures.injected_faults += 1
            except AssertionError as error:
                figures.violated(AssertionError(f"{kind}: {error}"))
                bank = FaultyBank(Path(held.enter_context(tempfile.TemporaryDirectory())), zygote)
            tell(f"faults: {kind.call} {kind.what} {kind.on}: {figures.injected_faults - before}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make disks", description="Crash states, power cuts and failing disks.")
    parser.add_argument("--lots", type=int, default=LOTS, help="workloads drawn by lot for the crash states")
    parser.add_argument("--cuts", type=int, default=CUTS, help="real power cuts")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="which parts to run")
    given = parser.parse_args()
    figures = Figures()
    for name, part in _parts(figures, given):
        if name not in given.only:
            continue
        began = time.monotonic()
        part()
        figures.seconds[name] = round(time.monotonic() - began, 1)
    print(json.dumps(figures.__dict__))
    return 1 if figures.violations else 0


def _parts(figures: Figures, given: Any) -> Iterator[tuple[str, Callable[[], None]]]:
    yield "power_cuts", lambda: power_cuts(figures, given.cuts)
    yield "injected_faults", lambda: injected_faults(figures)
    yield "crash_states", lambda: crash_states(figures, given.lots)


if __name__ == "__main__":
    sys.exit(main())
