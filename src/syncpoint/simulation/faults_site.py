"""Faults of processes that talk to each other: managers of a tree, applications at a node, the node, resource managers.

Not for: which of them a seed gets (faults.py).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import partial

from syncpoint.simulation.process import Process
from syncpoint.simulation.scene import Fault, Kind, Scene
from syncpoint.simulation.wires import Trap as MessageTrap

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


def _word(chance: random.Random) -> bytes:
    """Mostly votes, else outcomes, or anything."""
    return chance.choice([b"rm-voted", b"rm-voted", b"rm-ended", b""])


def _kill_process_at_a_message(scene: Scene, fault: Fault, chance: random.Random) -> None:
    """It dies right after one of its next messages: a vote, or the answer to an outcome."""
    process = _site_process(scene, fault.target)

    def spring(process: Process) -> None:
        seconds = chance.choice([0.0, chance.uniform(0.0, 0.004)])
        scene.world.after(seconds, partial(process.kill, "SIGKILL after a message"))

    if process is not None:
        scene.speaking.set_trap(MessageTrap(process.name, int(fault.amount * 8), spring, _word(chance)))


def _pause_process_at_a_message(scene: Scene, fault: Fault, chance: random.Random) -> None:
    """It stands still right after one of its next messages, and wakes with others in hand (a zombie)."""
    process = _site_process(scene, fault.target)

    def spring(process: Process) -> None:
        scene.world.after(chance.uniform(0.0, 0.004), process.pause)
        scene.world.after(0.004 + fault.for_s, process.wake)

    if process is not None:
        scene.speaking.set_trap(MessageTrap(process.name, int(fault.amount * 8), spring, _word(chance)))


def _kill_process_pause_manager(scene: Scene, fault: Fault, chance: random.Random) -> None:
    """It dies right after a vote, and an application stands still, perhaps with that vote in hand."""
    process = _site_process(scene, fault.target)
    applications = [one.process for one in scene.applications if one.process is not None]

    def spring(process: Process) -> None:
        manager = chance.choice(applications)
        scene.world.after(chance.uniform(0.0, 0.004), partial(process.kill, "SIGKILL after a vote"))
        scene.world.after(chance.uniform(0.0005, 0.006), manager.pause)
        scene.world.after(0.006 + fault.for_s, manager.wake)

    if process is not None and applications:
        scene.speaking.set_trap(MessageTrap(process.name, int(fault.amount * 4), spring, b"rm-voted"))


def _kill_process_between_votes(scene: Scene, fault: Fault, chance: random.Random) -> None:
    """It dies after its vote, and the other votes are late: a backup comes before the decision."""
    process = _site_process(scene, fault.target)

    def stall(process: Process) -> None:
        for database in scene.databases:
            scene.network.stall(database.name, lambda _: True, fault.for_s)
        scene.speaking.set_trap(MessageTrap(process.name, 0, kill, b"rm-voted"))

    def kill(process: Process) -> None:
        scene.world.after(chance.uniform(0.004, 0.02), partial(process.kill, "SIGKILL between votes"))

    if process is not None:
        scene.speaking.set_trap(MessageTrap(process.name, int(fault.amount * 20), stall, b"rm-value"))


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
    "kill-process-pause-manager": Kind("process", _kill_process_pause_manager, (0.5, 5.0)),
    "kill-process-between-votes": Kind("process", _kill_process_between_votes, (0.6, 2.5)),
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

OF_WIRES = {kind for kind, how in KINDS.items() if how.on in ("speaker", "wire", "wires")}
"""They hurt only processes that talk to each other."""
OF_A_SITE = {kind for kind, how in KINDS.items() if how.on in ("process", "node", "spoke")}
"""They hurt only a node, resource managers' processes, and links to the node."""
