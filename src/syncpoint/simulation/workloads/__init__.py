"""What the applications of a seed do, and what must be true in the end: setup, start, check. By name in `WORKLOADS`."""

from __future__ import annotations

from collections.abc import Mapping

from syncpoint.simulation.workloads.bank import Bank
from syncpoint.simulation.workloads.base import Workload
from syncpoint.simulation.workloads.counters import Counters
from syncpoint.simulation.workloads.lists import Lists
from syncpoint.simulation.workloads.resends import Resends
from syncpoint.simulation.workloads.sets import Sets
from syncpoint.simulation.workloads.takeover import TakeoverBank
from syncpoint.simulation.workloads.trees import TreeBank

SIDE_BY_SIDE: Mapping[str, type[Workload]] = {one.name: one for one in (Bank, Counters, Lists, Resends, Sets)}
"""Of applications that share a journal."""
WORKLOADS: Mapping[str, type[Workload]] = {**SIDE_BY_SIDE, TreeBank.name: TreeBank, TakeoverBank.name: TakeoverBank}
