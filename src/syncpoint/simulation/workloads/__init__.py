"""What the applications of a seed do, and what must be true in the end: setup, start, check. By name in `WORKLOADS`."""

from __future__ import annotations

from collections.abc import Mapping

from syncpoint.simulation.workloads.bank import Bank
from syncpoint.simulation.workloads.base import Workload
from syncpoint.simulation.workloads.resends import Resends

WORKLOADS: Mapping[str, type[Workload]] = {one.name: one for one in (Bank, Resends)}
