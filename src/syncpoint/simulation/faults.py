"""What goes wrong in a seed, and when: a plan drawn from the seed, which can be made smaller and replayed.

Each seed draws a random part of the kinds of faults (swarm), so that rare mixes come up too. Not for: repairing;
`run.py` heals everything at the end of the faults' time.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from syncpoint.simulation.database import SimDatabase
from syncpoint.simulation.host import Application, Host
from syncpoint.simulation.journal_rows import JournalRows
from syncpoint.simulation.links import Switchboard
from syncpoint.simulation.network import Connection, Mishap, Network, Trap
from syncpoint.simulation.process import Process
from syncpoint.simulation.site import SiteCast
from syncpoint.simulation.wires import Trap as MessageTrap
from syncpoint.simulation.wires import Wires
from syncpoint.simulation.world import World


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. `number` is its place in the seed's plan: `--only` names faults by it."""

    number: int
    at_s: float
    kind: str
    target: str
    for_s: float
    amount: float
    """In [0, 1): what it means is the kind's matter."""

    def __str__(self) -> str:
        return f"{self.number}: {self.at_s:6.2f} s {self.kind} {self.target} for {self.for_s:.2f} s"


@dataclass(slots=True)
class Scene:
    """Everything that can be hurt."""

    world: World
    network: Network
    hosts: Sequence[Host]
    databases: Sequence[SimDatabase]
    wires: Wires | None = None
    """Between managers of a tree, if this seed is one."""
    site: SiteCast | None = None

    @property
    def speaking(self) -> Wires | Switchboard:
        """What processes talk over."""
        assert self.wires is not None or self.site is not None
        return self.wires or self.site.board  # type: ignore[union-attr]

    @property
    def applications(self) -> list[Application]:
        return [application for host in self.hosts for application in host.applications]

    def application(self, name: str) -> Application:
        return next(one for one in self.applications if f"{one.host.name}/{one.name}" == name)

    def host(self, name: str) -> Host:
        return next(one for one in self.hosts if one.name == name)

    def database(self, name: str) -> SimDatabase:
        return next(one for one in self.databases if one.name == name)


Do = Callable[[Scene, Fault, random.Random], None]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault: what it is done to ("application", "host", "database", "link", "network", "journal"; where
    processes talk to each other, "speaker", "wire", "wires"), and for how long."""

    on: str
    do: Do
    for_s: tuple[float, float] = (0.0, 0.0)


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


# --- processes that talk to each other ------------------------------------------------------------------------------


def _kill_at_a_moment(scene: Scene, fault: Fault, chance: random.Random) -> None:
    """It dies at one of the next moments at which its code runs: between any two steps of any script."""
    process = scene.application(fault.target).process
    if process is not None:
        process.dies_at = process.moments + 1 + int(fault.amount * 200)


def _kill_at_a_message(scene: Scene, fault: Fault, chance: random.Random) -> None:
    """It dies right after it has sent one of its next questions or answers."""

    def spring(process: Process) -> None:
        scene.world.after(chance.uniform(0.0, 0.004), partial(process.kill, "SIGKILL after a message"))

    scene.speaking.set_trap(MessageTrap(f"{fault.target}#", int(fault.amount * 12), spring))


def _pause_at_a_message(scene: Scene, fault: Fault, chance: random.Random) -> None:
    """It stands still right after it has sent one of its next questions or answers, and wakes with old ones in hand."""

    def spring(process: Process) -> None:
        scene.world.after(chance.uniform(0.0, 0.004), process.pause)
        scene.world.after(0.004 + fault.for_s, process.wake)

    scene.speaking.set_trap(MessageTrap(f"{fault.target}#", int(fault.amount * 12), spring))


def _mishaps(
    scene: Scene, fault: Fault, chance: random.Random, *, lost: float = 0.0, doubled: float = 0.0, late: float = 0.0
) -> None:
    """Some messages are lost, come twice, come late."""
    mishaps = scene.speaking.mishaps

    def change(by: float) -> None:
        mishaps.lost = max(0.0, mishaps.lost + lost * by)
        mishaps.doubled = max(0.0, mishaps.doubled + doubled * by)
        mishaps.late = max(0.0, mishaps.late + late * by)

    change(fault.amount)
    scene.world.after(fault.for_s, partial(change, -fault.amount))


def _cut_wire(scene: Scene, fault: Fault, chance: random.Random) -> None:
    """No message comes through from one to the other, or in both directions."""
    source, target = fault.target.split(">")
    for one, other in [(source, target), (target, source)][: 1 + (fault.amount < 0.6)]:
        scene.network.cut(one, other)
        scene.world.after(fault.for_s, partial(scene.network.mend, one, other))


# --- a site: resource managers' processes, and the node ---------------------------------------------------------------


def _site_process(scene: Scene, target: str) -> Process | None:
    assert scene.site is not None
    if target == "node":
        return scene.site.node.process
    serving = scene.site.serving(target)
    return None if serving is None else serving.process


def _kill_process(scene: Scene, fault: Fault, chance: random.Random) -> None:
    process = _site_process(scene, fault.target)
    if process is not None:
        process.kill("SIGKILL")


def _kill_process_at_a_moment(scene: Scene, fault: Fault, chance: random.Random) -> None:
    process = _site_process(scene, fault.target)
    if process is not None:
        process.dies_at = process.moments + 1 + int(fault.amount * 150)


def _kill_process_at_a_message(scene: Scene, fault: Fault, chance: random.Random) -> None:
    """It dies right after one of its next messages: a vote, or the answer to an outcome."""
    process = _site_process(scene, fault.target)

    def spring(process: Process) -> None:
        scene.world.after(chance.uniform(0.0, 0.004), partial(process.kill, "SIGKILL after a message"))

    if process is not None:
        scene.speaking.set_trap(MessageTrap(process.name, int(fault.amount * 30), spring))


def _pause_process_at_a_message(scene: Scene, fault: Fault, chance: random.Random) -> None:
    """It stands still right after one of its next messages, and wakes with others in hand (a zombie)."""
    process = _site_process(scene, fault.target)

    def spring(process: Process) -> None:
        scene.world.after(chance.uniform(0.0, 0.004), process.pause)
        scene.world.after(0.004 + fault.for_s, process.wake)

    if process is not None:
        scene.speaking.set_trap(MessageTrap(process.name, int(fault.amount * 30), spring))


def _kill_backup(scene: Scene, fault: Fault, chance: random.Random) -> None:
    """It dies, and whoever takes over dies in the middle of that; and so may the next."""
    _kill_process(scene, fault, chance)
    for number in range(1 + int(fault.amount * 3)):
        again = partial(_kill_process_at_a_moment, scene, fault, chance)
        scene.world.after((number + 1) * chance.uniform(0.05, 1.0), again)


def _pause_process(scene: Scene, fault: Fault, chance: random.Random) -> None:
    """It stands still, others take over, and it wakes with old messages in hand (a zombie)."""
    process = _site_process(scene, fault.target)
    if process is not None:
        at_s = chance.uniform(0.0, 0.05)
        scene.world.after(at_s, process.pause)
        scene.world.after(at_s + fault.for_s, process.wake)


def _start_backup(scene: Scene, fault: Fault, chance: random.Random) -> None:
    """Somebody starts one more process for it, or two at once."""
    assert scene.site is not None
    for _ in range(1 + (fault.amount < 0.5)):
        scene.site.launch(fault.target, standby=False, host=scene.site.hosts[fault.target])
    if fault.amount < 0.7:
        _kill_process(scene, fault, chance)


def _cut_process(scene: Scene, fault: Fault, chance: random.Random) -> None:
    """Its machine and the node's do not reach each other, or in one direction only."""
    process = _site_process(scene, fault.target)
    if process is not None:
        machine = process.name.partition("/")[0]
        for source, target in [(machine, "node"), ("node", machine)][: 1 + (fault.amount < 0.6)]:
            scene.network.cut(source, target)
            scene.world.after(fault.for_s, partial(scene.network.mend, source, target))


def _cut_application(scene: Scene, fault: Fault, chance: random.Random) -> None:
    machine = fault.target.partition("/")[0]
    for source, target in [(machine, "node"), ("node", machine)][: 1 + (fault.amount < 0.6)]:
        scene.network.cut(source, target)
        scene.world.after(fault.for_s, partial(scene.network.mend, source, target))


def _node_power(scene: Scene, fault: Fault, chance: random.Random) -> None:
    assert scene.site is not None
    _kill_process(scene, fault, chance)
    scene.site.node.host.cut_power(chance)


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
    "kill-at-a-moment": Kind("speaker", _kill_at_a_moment),
    "kill-at-a-message": Kind("speaker", _kill_at_a_message),
    "pause-at-a-message": Kind("speaker", _pause_at_a_message, (0.5, 12.0)),
    "lose-messages": Kind("wires", partial(_mishaps, lost=0.5), (1.0, 10.0)),
    "double-messages": Kind("wires", partial(_mishaps, doubled=0.5), (1.0, 8.0)),
    "delay-messages": Kind("wires", partial(_mishaps, late=0.3), (1.0, 8.0)),
    "cut-wire": Kind("wire", _cut_wire, (0.5, 8.0)),
    "kill-process": Kind("process", _kill_process),
    "kill-process-at-a-moment": Kind("process", _kill_process_at_a_moment),
    "kill-process-at-a-message": Kind("process", _kill_process_at_a_message),
    "pause-process-at-a-message": Kind("process", _pause_process_at_a_message, (0.3, 10.0)),
    "kill-backup": Kind("process", _kill_backup),
    "pause-process": Kind("process", _pause_process, (0.3, 10.0)),
    "cut-process": Kind("process", _cut_process, (0.3, 8.0)),
    "start-backup": Kind("process", _start_backup),
    "kill-node": Kind("node", _kill_process),
    "kill-node-at-a-moment": Kind("node", _kill_process_at_a_moment),
    "pause-node": Kind("node", _pause_process, (0.3, 5.0)),
    "node-power-cut": Kind("node", _node_power),
    "cut-application": Kind("spoke", _cut_application, (0.3, 8.0)),
}

OF_A_FOLDER = {"kill-in-disk-operation", "force-fails", "disk-full", "disk-slow"}
"""They hurt only whoever writes to the machine's own disk."""
OF_WIRES = {kind for kind, how in KINDS.items() if how.on in ("speaker", "wire", "wires")}
"""They hurt only processes that talk to each other."""
OF_A_SITE = {kind for kind, how in KINDS.items() if how.on in ("process", "node", "spoke")}
"""They hurt only a node, resource managers' processes, and links to the node."""
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
