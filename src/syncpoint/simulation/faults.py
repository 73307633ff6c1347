"""What goes wrong in a seed, and when: a plan drawn from the seed, which can be made smaller and replayed.

Each seed draws a random part of the kinds of faults (swarm), so that rare mixes come up too. Not for: repairing,
which run.py does at the end of the faults' time.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import partial

from syncpoint.simulation import faults_site
from syncpoint.simulation.database import SimDatabase
from syncpoint.simulation.faults_site import OF_A_SITE, OF_WIRES
from syncpoint.simulation.journal_rows import JournalRows
from syncpoint.simulation.network import Connection, Mishap, Trap
from syncpoint.simulation.scene import Fault, Kind, Scene

# --- processes ------------------------------------------------------------------------------------------------


def _kill(scene: Scene, fault: Fault, chance: random.Random) -> None:
    scene.application(fault.target).kill("SIGKILL")


def _close(scene: Scene, fault: Fault, chance: random.Random) -> None:
    scene.application(fault.target).close()


def _kill_in_disk(scene: Scene, fault: Fault, chance: random.Random) -> None:
    scene.application(fault.target).dies_after = int(fault.amount * 12)


def _kill_at_the_end(scene: Scene, fault: Fault, chance: random.Random) -> None:
    """It dies within the next few requests that end a transaction, or right after one of them."""

    def spring(connection: Connection) -> Mishap:
        scene.world.after(chance.uniform(0.0, 0.006), partial(connection.process.kill, "SIGKILL while committing"))
        return Mishap()

    scene.network.set_trap(Trap(f"{fault.target}#", int(fault.amount * 6), spring))


def _lose_a_reply(scene: Scene, fault: Fault, chance: random.Random) -> None:
    """One of the next requests that end a transaction is carried out, its reply is lost, and the connection with it."""

    def spring(connection: Connection) -> Mishap:
        scene.world.after(chance.uniform(0.004, 0.5), connection.lose)
        return Mishap(loses_reply=True)

    scene.network.set_trap(Trap(f"{fault.target}#", int(fault.amount * 6), spring))


def _delay_a_request(scene: Scene, fault: Fault, chance: random.Random) -> None:
    """One of the next requests that end a transaction is carried out long after its connection has been lost."""

    def spring(connection: Connection) -> Mishap:
        scene.world.after(chance.uniform(0.001, 0.1), connection.lose)
        return Mishap(loses_reply=True, late_s=fault.for_s)

    scene.network.set_trap(Trap(f"{fault.target}#", int(fault.amount * 6), spring))


def _pause_at_the_end(scene: Scene, fault: Fault, chance: random.Random) -> None:
    """It stands still right after one of the next requests that end a transaction, which may arrive late besides."""

    def spring(connection: Connection) -> Mishap:
        scene.world.after(chance.uniform(0.0, 0.006), connection.process.pause)
        scene.world.after(0.006 + fault.for_s, connection.process.wake)
        return Mishap(late_s=chance.choice([0.0, chance.uniform(0.0, fault.for_s)]))

    scene.network.set_trap(Trap(f"{fault.target}#", int(fault.amount * 6), spring))


def _crash_at_the_end(scene: Scene, fault: Fault, chance: random.Random) -> None:
    """The server crashes that gets one of the next requests that end a transaction, soon after."""

    def spring(connection: Connection) -> Mishap:
        server = connection.server
        assert isinstance(server, SimDatabase)
        scene.world.after(chance.uniform(0.0, chance.choice([0.006, 0.05, 1.0])), server.crash)
        scene.world.after(1.0 + fault.for_s, server.start)
        return Mishap()

    scene.network.set_trap(Trap(f"{fault.target}#", int(fault.amount * 6), spring))


def _pause(scene: Scene, fault: Fault, chance: random.Random) -> None:
    process = scene.application(fault.target).process
    if process is not None:
        process.pause()
        scene.world.after(fault.for_s, process.wake)


def _cancel(scene: Scene, fault: Fault, chance: random.Random) -> None:
    application = scene.application(fault.target)
    if application.core is not None and application.process is not None and application.process.alive:
        for work in list(application.core.live.values()):
            work.cancel("cancelled by the simulator")


# --- clocks ---------------------------------------------------------------------------------------------------


def _drift(scene: Scene, fault: Fault, chance: random.Random) -> None:
    process = scene.application(fault.target).process
    if process is not None:
        process.clock.drift(0.5 + fault.amount * 1.5)
        scene.world.after(fault.for_s, partial(process.clock.drift, 1.0))


def _step(scene: Scene, fault: Fault, chance: random.Random) -> None:
    process = scene.application(fault.target).process
    if process is not None:
        process.clock.wall_step_s += (fault.amount - 0.5) * 100_000


# --- machines and disks -----------------------------------------------------------------------------------------


def _power(scene: Scene, fault: Fault, chance: random.Random) -> None:
    scene.host(fault.target).cut_power(chance)


def _force_fails(scene: Scene, fault: Fault, chance: random.Random) -> None:
    disk = scene.host(fault.target).disk
    disk.fail_force_at = disk.forces + 1 + int(fault.amount * 5)


def _full(scene: Scene, fault: Fault, chance: random.Random) -> None:
    disk = scene.host(fault.target).disk
    disk.full_at_bytes = disk.size_bytes() + int(fault.amount * 2000)

    def free() -> None:
        disk.full_at_bytes = None

    scene.world.after(fault.for_s, free)


def _slow(scene: Scene, fault: Fault, chance: random.Random) -> None:
    host = scene.host(fault.target)
    host.is_slow = True

    def fast() -> None:
        host.is_slow = False

    scene.world.after(fault.for_s, fast)


# --- databases and the network ----------------------------------------------------------------------------------


def _restart(scene: Scene, fault: Fault, chance: random.Random) -> None:
    database = scene.database(fault.target)
    database.crash()
    scene.world.after(fault.for_s, database.start)


def _roll_back(scene: Scene, fault: Fault, chance: random.Random) -> None:
    database = scene.database(fault.target)
    for number in range(20):  # again and again for two seconds: few branches are under way at one moment
        scene.world.after(number / 10, partial(database.roll_back, lambda: chance.random() < fault.amount))


def _cut(scene: Scene, fault: Fault, chance: random.Random, *, there: bool, back: bool) -> None:
    host, database = fault.target.split(">")
    pairs = [(host, database)] * there + [(database, host)] * back
    for source, target in pairs:
        scene.network.cut(source, target)
        scene.world.after(fault.for_s, partial(scene.network.mend, source, target))


def _drop(scene: Scene, fault: Fault, chance: random.Random) -> None:
    for database in scene.databases:
        scene.network.drop(database.name, lambda connection: chance.random() < 0.1 + fault.amount)


def _weather(scene: Scene, fault: Fault, chance: random.Random, *, spikes: float = 0.0, losses: float = 0.0) -> None:
    weather = scene.network.weather
    weather.spikes += spikes * fault.amount
    weather.losses += losses * fault.amount

    def clear() -> None:
        weather.spikes = max(0.0, weather.spikes - spikes * fault.amount)
        weather.losses = max(0.0, weather.losses - losses * fault.amount)

    scene.world.after(fault.for_s, clear)


# --- the journal's database ---------------------------------------------------------------------------------------


def _server_drift(scene: Scene, fault: Fault, chance: random.Random) -> None:
    for database in scene.databases:
        if database.rows is not None:
            clock = database.rows.clock
            clock.drift(0.5 + fault.amount * 1.5)
            scene.world.after(fault.for_s, partial(clock.drift, 1.0))


def _server_step(scene: Scene, fault: Fault, chance: random.Random) -> None:
    for database in scene.databases:
        if database.rows is not None:
            database.rows.clock.wall_step_s += (fault.amount - 0.5) * 40


def _journal_cut(scene: Scene, fault: Fault, chance: random.Random) -> None:
    """One host, or both directions of it, loses the journal alone."""
    host = chance.choice(list(scene.hosts)).name
    for database in scene.databases:
        if database.rows is not None:
            there = chance.random() < 0.7
            pairs = [(host, database.name)] * there + [(database.name, host)] * (not there or chance.random() < 0.7)
            for source, target in pairs:
                scene.network.cut(source, target)
                scene.world.after(fault.for_s, partial(scene.network.mend, source, target))


def _journal_slow(scene: Scene, fault: Fault, chance: random.Random) -> None:
    """The disk below the journal's database is slow: what it commits is not certain for a while."""

    def change(rows: JournalRows, by: int) -> None:
        rows.slow += by

    for database in scene.databases:
        if database.rows is not None:
            change(database.rows, 1)
            scene.world.after(fault.for_s, partial(change, database.rows, -1))


def _journal_stall(scene: Scene, fault: Fault, chance: random.Random) -> None:
    """Some connections to the journal stand still, while others go on: signs of life, or decisions."""
    for database in scene.databases:
        if database.rows is not None:
            scene.network.stall(database.name, lambda connection: chance.random() < 0.1 + fault.amount / 2, fault.for_s)


KINDS: Mapping[str, Kind] = {
    "kill": Kind("application", _kill),
    "close": Kind("application", _close),
    "kill-in-disk-operation": Kind("application", _kill_in_disk),
    "kill-while-committing": Kind("application", _kill_at_the_end),
    "lose-a-reply": Kind("application", _lose_a_reply),
    "delay-a-request": Kind("application", _delay_a_request, (0.2, 12.0)),
    "pause-while-committing": Kind("application", _pause_at_the_end, (0.5, 6.0)),
    "database-restart-while-committing": Kind("application", _crash_at_the_end, (0.1, 3.0)),
    "pause": Kind("application", _pause, (0.5, 8.0)),
    "cancel": Kind("application", _cancel),
    "clock-drift": Kind("application", _drift, (2.0, 15.0)),
    "clock-step": Kind("application", _step),
    "power-cut": Kind("host", _power),
    "force-fails": Kind("host", _force_fails),
    "disk-full": Kind("host", _full, (0.5, 4.0)),
    "disk-slow": Kind("host", _slow, (1.0, 8.0)),
    "database-restart": Kind("database", _restart, (0.1, 4.0)),
    "roll-back": Kind("database", _roll_back),
    "cut": Kind("link", partial(_cut, there=True, back=True), (0.5, 6.0)),
    "cut-requests": Kind("link", partial(_cut, there=True, back=False), (0.5, 6.0)),
    "cut-replies": Kind("link", partial(_cut, there=False, back=True), (0.2, 4.0)),
    "drop-connections": Kind("network", _drop),
    "delay": Kind("network", partial(_weather, spikes=0.5), (1.0, 8.0)),
    "loss": Kind("network", partial(_weather, losses=0.06), (1.0, 8.0)),
    "journal-clock-drift": Kind("journal", _server_drift, (2.0, 15.0)),
    "journal-clock-step": Kind("journal", _server_step),
    "journal-cut": Kind("journal", _journal_cut, (0.5, 6.0)),
    "journal-slow": Kind("journal", _journal_slow, (1.0, 6.0)),
    "journal-stall": Kind("journal", _journal_stall, (0.3, 4.0)),
    **faults_site.KINDS,
}

OF_A_FOLDER = {"kill-in-disk-operation", "force-fails", "disk-full", "disk-slow"}
"""They hurt only whoever writes to the machine's own disk."""
NOT_OF_A_SITE = OF_A_FOLDER | {"cut-wire", "double-messages"}
"""Its applications write to no disk; and links carry nothing twice."""


def draw(
    chance: random.Random, scene: Scene, *, kinds: Sequence[str], faults_s: float, count: tuple[int, int]
) -> list[Fault]:
    """A seed's plan: some of `kinds`, some of their faults, in order of time."""
    in_database = any(database.rows is not None for database in scene.databases)
    missing = OF_A_FOLDER if in_database else {kind for kind, how in KINDS.items() if how.on == "journal"}
    missing = missing | (OF_WIRES if scene.wires is None and scene.site is None else set())
    missing = missing | (OF_A_SITE if scene.site is None else NOT_OF_A_SITE)
    kinds = [kind for kind in kinds if kind not in missing]
    if not kinds:
        return []  # none of them can hurt this seed
    chosen = [kind for kind in kinds if chance.random() < 0.5] or [chance.choice(list(kinds))]
    chosen += [kind for kind in chosen if kind in OF_WIRES | OF_A_SITE] * 2  # what only these seeds can show
    planned = []
    for _ in range(chance.randint(*count)):
        kind = chance.choice(chosen)
        planned.append((chance.uniform(0.5, faults_s), kind))
    planned.sort()
    return [_fault(chance, scene, number, at_s, kind) for number, (at_s, kind) in enumerate(planned)]


def _fault(chance: random.Random, scene: Scene, number: int, at_s: float, kind: str) -> Fault:
    target = _target(chance, scene, KINDS[kind].on)
    for_s = chance.uniform(*KINDS[kind].for_s)
    return Fault(number, at_s, kind, target, for_s, chance.random())


def _target(chance: random.Random, scene: Scene, on: str) -> str:
    match on:
        case "application" | "speaker" | "spoke":
            application = chance.choice(scene.applications)
            return f"{application.host.name}/{application.name}"
        case "host":
            return chance.choice(scene.hosts).name
        case "database":
            return chance.choice(scene.databases).name
        case "link":
            return f"{chance.choice(scene.hosts).name}>{chance.choice(scene.databases).name}"
        case "process":
            assert scene.site is not None
            return chance.choice(list(scene.site.data))
        case "wire":
            return ">".join(host.name for host in chance.sample(list(scene.hosts), 2))
    return on


def arm(scene: Scene, plan: Sequence[Fault]) -> None:
    """Have every fault of the plan happen at its time."""
    for fault in plan:
        scene.world.after(fault.at_s, partial(_happen, scene, fault))


def _happen(scene: Scene, fault: Fault) -> None:
    scene.world.count(f"fault {fault.kind}")
    scene.world.note("fault", f"{fault.kind} {fault.target} for {fault.for_s:.3f} s")
    KINDS[fault.kind].do(scene, fault, scene.world.stream(f"fault {fault.number}"))
