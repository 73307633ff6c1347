"""Seeds of the simulator, recorded: the real manager, journal and recovery under faults. Not for: judging them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from syncpoint.simulation.run import Options, Seed
from syncpoint.simulation.sweep import in_workers
from tests.spec.histories import Trace, traces_of
from tests.spec.recorder import Recorder


def record_seeds(numbers: Sequence[int]) -> list[Trace]:
    """The traces of all these seeds, in order. They are recorded in processes whose string hashes are fixed, as the
    simulator's own are: a trace that is rejected today is there tomorrow, under the name it has."""
    recorded = dict(in_workers(_numbered, numbers))
    return [trace for number in numbers for trace in recorded[number]]


def _numbered(number: int) -> tuple[int, list[Trace]]:
    return number, record_seed(number)


def record_seed(number: int, options: Options | None = None) -> list[Trace]:
    """Run one seed, and return the history of every transaction in it that the specification speaks of."""
    seed = Seed(number, options or Options(journal="folder"))
    recorder = Recorder()
    attach(recorder, seed)
    logging.disable(logging.CRITICAL)
    try:
        with recorder.recording():
            seed.run()
    finally:
        seed.world.end()
        logging.disable(logging.NOTSET)
    return traces_of(recorder.events, f"seed {number}")


def attach(recorder: Recorder, seed: Seed) -> None:
    """Every server, host and application of a seed."""
    for database in seed.databases.values():
        recorder.attach_server(database.engine)
    for host in seed.hosts:
        _attach_host(recorder, host)
    for application in seed.scene.applications:
        _attach_application(recorder, application)


def _attach_host(recorder: Recorder, host: Any) -> None:
    cut_power = host.cut_power

    def cut(chance: Any) -> None:
        crash = host.disk.crash

        def crashed(*args: Any, **options: Any) -> None:
            recorder.power_cut()
            crash(*args, **options)

        host.disk.crash = crashed
        try:
            cut_power(chance)
        finally:
            host.disk.crash = crash

    host.cut_power = cut


def _attach_application(recorder: Recorder, application: Any) -> None:
    make_journal, make_resources = application._journal, application._resources
    journals: dict[int, Any] = {}

    def journal(this: Any) -> Any:
        made = make_journal(this)
        recorder.attach_journal(made)
        journals[0] = made
        this.process.on_death.insert(0, lambda: recorder.died(made))
        return made

    def resources(this: Any) -> Any:
        made = make_resources(this)
        for resource in made:
            recorder.attach_resource(resource, journals[0])
        return made

    application._journal, application._resources = journal, resources
