"""Runs scenes in processes that die, recovers after them, and judges from outside what is left (R7, O31).

    play(scene, target)   earlier processes die -> the scene runs, and dies at its target -> settle -> audit -> resend

Not for: what a scene does (scenes_*.py), or which points there are (points.py).
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg

from tests.crash import journals
from tests.crash.scenes import Scene, load
from tests.crash.trap import Place, Target
from tests.crash.world import ALL, World, as_mapping

SETTLE_TRIES_MAX = 3


class NotHit(Exception):
    """The scene ended without reaching the target: this time it went another way."""


@dataclass
class Said:
    """What one process said before it ended."""

    killed: bool
    lines: list[dict[str, Any]]
    noise: str

    def told(self) -> dict[str, str]:
        return {line["told"][0]: line["told"][1] for line in self.lines if "told" in line}

    def last(self, word: str) -> Any:
        return next((line[word] for line in reversed(self.lines) if word in line), None)

    def check(self) -> None:
        """Nothing went wrong in it that was not meant to."""
        error = self.last("error")
        assert error is None, f"{error}\n{self.noise}"
        assert self.last("places") is not None, f"it ended without a word:\n{self.noise}"


class Zygote:
    """The process that forks what dies."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._read()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()

    def run(
        self,
        world: World,
        scene: str,
        transfer: str,
        target: Target | None = None,
        disk: tuple[int, bool] | None = None,
    ) -> Said:
        """One process plays one scene, whatever comes of it. `disk`: die at its n-th write, torn or before it."""
        order = {
            "scene": scene,
            "world": as_mapping(world),
            "transfer": transfer,
            "target": dataclasses.asdict(target) if target else None,
            "disk": disk,
        }
        answer = self._ask(order)
        return Said(answer["killed"], answer["said"], answer["noise"])

    def let_go(self) -> None:
        """Close the sockets that processes have left open."""
        self._ask({"let_go": True})

    def _ask(self, order: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the zygote has ended: {self._process.poll()}"
        return json.loads(line)


@dataclass
class Played:
    """One scene, played to its end or to its death, and found to have left everything whole."""

    scene: Scene
    outcomes: dict[str, str]
    """Transfer -> "committed", "aborted", "mixed"."""
    places: list[Place] = field(default_factory=list)
    """What it passed; of one that died, nothing is known from here on."""
    steps: int = 0
    trace: list[str] = field(default_factory=list)
    disk: list[str] = field(default_factory=list)
    """What it wrote to the journal's disk."""


class Stage:
    """One set of databases, and a zygote. Each play gets a fresh journal and a fresh SQLite file."""

    def __init__(self, world: World, zygote: Zygote, folder: Path, kind: str = journals.FOLDER) -> None:
        self.world = world
        self.zygote = zygote
        self.folder = folder
        self.kind = kind
        self.plays = 0

    def play(self, scene: Scene, target: Target | None = None, disk: tuple[int, bool] | None = None) -> Played:
        """Play a scene, then settle and audit. Raises NotHit when it did not die at `target`, or at its n-th write
        to the `disk`."""
        world = self.world.again(self.folder, self.kind)
        try:
            return self._play(world, scene, target, disk)
        except AssertionError:
            world.sweep()
            raise

    def _play(self, world: World, scene: Scene, target: Target | None, disk: tuple[int, bool] | None) -> Played:
        self.plays += 1
        transfer = f"{scene.name}-{self.kind}-{self.plays}"
        told = self._leave_behind(world, scene, transfer)
        if scene.fresh:
            _drop_schemas(world)
        said = self.zygote.run(world, scene.name, transfer, target, disk)
        self.zygote.let_go()
        if scene.mend is not None:
            scene.mend(world)
        journals.let_time_pass(world)
        if not said.killed:
            said.check()
        told.update(said.told())
        outcomes = self._judge(world, scene, transfer, told)
        if not said.killed and (target or disk):
            raise NotHit(f"{scene.name} did not die {target or disk}")
        if said.killed:
            return Played(scene, outcomes)
        places = [(file, line) for file, line in said.last("places")]
        return Played(scene, outcomes, places, said.last("steps"), said.last("trace"), said.last("disk"))

    def _leave_behind(self, world: World, scene: Scene, transfer: str) -> dict[str, str]:
        told = {}
        for left in scene.left:
            target = left.target_in(world)
            said = self.zygote.run(world, left.scene, transfer + left.transfer, target)
            assert said.killed, f"{left.scene} did not die {target}: {said.last('error')}\n{said.last('trace')}"
            journals.let_time_pass(world)
            told[transfer + left.transfer] = left.outcome
        return told

    def _judge(self, world: World, scene: Scene, transfer: str, told: dict[str, str]) -> dict[str, str]:
        self._settle(world, scene)
        if scene.is_heuristic:
            return self._judge_heuristic(world, scene, transfer)
        outcomes = {}
        for suffix, where in scene.expects.items():
            name = transfer + suffix
            outcomes[name] = world.audit(name, told.get(name, "") if where else "", where)
        if scene.user_id:
            self._send_again(world, transfer, outcomes[transfer], scene.expects[""])
        return outcomes

    def _settle(self, world: World, scene: Scene) -> None:
        """Recover, in a process of its own, until nothing is left. More than once only for what a server did after
        its client had died (O42)."""
        for left_tries in reversed(range(SETTLE_TRIES_MAX)):
            said = self._recover(world, 0.0 if scene.forgets else 10.0)
            unfinished = said.last("left").keys() - scene.forgets or world.in_doubt()
            if not unfinished:
                assert bool(said.last("heuristics")) <= scene.is_heuristic, said.last("heuristics")
                return
            assert left_tries, f"{scene.name}: left after recovery: {unfinished}: {said.last('report')}"

    def _recover(self, world: World, wait_s: float) -> Said:
        said = self.zygote.run(world, "settle", json.dumps(wait_s))
        said.check()
        return said

    def _judge_heuristic(self, world: World, scene: Scene, transfer: str) -> dict[str, str]:
        """Mixed is allowed, if it is listed."""
        rows = world.rows(transfer)
        assert set(rows.values()) <= {0, 1}, f"{transfer}: applied twice: {rows}"
        assert world.in_doubt() == []
        assert world.locks() == []
        if len(set(rows.values())) > 1:
            said = self._recover(world, 0.0)
            assert said.last("heuristics"), f"{transfer}: mixed, and nobody is told: {rows}"
        return {transfer: "mixed" if len(set(rows.values())) > 1 else "whole"}

    def _send_again(self, world: World, transfer: str, outcome: str, where: tuple[str, ...]) -> None:
        """The same id again: the same result, and nothing twice (O50)."""
        said = self.zygote.run(world, "send_again", json.dumps([transfer, where]))
        said.check()
        assert said.last("again") == (outcome == "committed"), f"{transfer}: {outcome}, then {said.lines}"
        rows = world.rows(transfer)
        assert rows == {name: int(name in where) for name in ALL}, f"{transfer}: sent again: {rows}"


def _drop_schemas(world: World) -> None:
    assert world.mariadb is not None
    with world.bank() as bank:
        bank.execute("DROP SCHEMA IF EXISTS syncpoint CASCADE")
    with closing(world.mariadb.connect()) as root, root.cursor() as cursor:
        cursor.execute("DROP DATABASE IF EXISTS syncpoint")
    with psycopg.connect(world.apart_url, autocommit=True) as apart:
        apart.execute("DROP SCHEMA IF EXISTS syncpoint CASCADE")


def scenes_tried(kind: str) -> list[Scene]:
    return [scene for scene in load().values() if scene.is_tried and kind in scene.journals]
