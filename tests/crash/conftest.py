"""Databases and a zygote for the crash suite: made once for each test process."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from syncpoint.testing.servers.mariadb import MariadbServer
from syncpoint.testing.servers.postgres import PostgresServer
from tests.crash.harness import Stage, Zygote
from tests.crash.journals import EVERYWHERE, FOLDER
from tests.crash.statements import TESTS, compare
from tests.crash.summary import pytest_terminal_summary
from tests.crash.world import World

__all__ = ["announce", "compared_with_the_source", "pytest_terminal_summary", "shared_folder", "stage", "stages"]

Stages = Mapping[str, Stage]


@pytest.fixture(scope="session")
def stages(
    postgres_server: PostgresServer, mariadb_server: MariadbServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stages]:
    """Where scenes are played, by the kind of journal; one play at a time."""
    folder = tmp_path_factory.mktemp("crash")
    with Zygote() as zygote:
        world = World.make(postgres_server, mariadb_server, folder)
        yield {kind: Stage(world, zygote, folder, kind) for kind in EVERYWHERE}


@pytest.fixture(scope="session")
def stage(stages: Stages) -> Stage:
    """The one with the journal in a folder."""
    return stages[FOLDER]


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all processes of this test run."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture
def announce(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Print numbers where everybody sees them, those of parallel test processes too."""

    def say(text: str) -> None:
        with capsys.disabled():
            print(f"\n{text}", file=sys.stderr, flush=True)

    return say


@pytest.fixture
def compared_with_the_source(
    request: pytest.FixtureRequest, shared_folder: Path, announce: Callable[[str], None]
) -> Iterator[None]:
    """After a test that loses replies. It says something only when all of them are run."""
    yield
    chosen = {item.name for item in request.session.items}
    if chosen.issuperset(TESTS):
        compare(shared_folder, announce)
