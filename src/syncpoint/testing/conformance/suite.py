"""`ResourceConformance`: every check of what resources/base.py promises, for the author of an adapter.

    class TestMine(ResourceConformance):
        @pytest.fixture
        def subject(self, tmp_path):
            return SqlSubject("mine://localhost/test", observe=lambda: mydriver.connect("localhost", "test"))

Each check runs under both runners. What the subject or the adapter cannot do is skipped, with the reason.
Not for: the checks themselves, which stand by subject in the files beside this one.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from syncpoint.resources.base import Mode
from syncpoint.testing.conformance.bench import Bench
from syncpoint.testing.conformance.crashes import Crashes
from syncpoint.testing.conformance.doubt import InDoubt
from syncpoint.testing.conformance.endings import Endings
from syncpoint.testing.conformance.fencing import Fencing
from syncpoint.testing.conformance.keeping import Keeping
from syncpoint.testing.conformance.losses import Losses
from syncpoint.testing.conformance.manners import Manners
from syncpoint.testing.conformance.subject import Subject
from syncpoint.testing.conformance.votes import Votes
from syncpoint.testing.plugin import CONFORMANCE

__all__ = ["ResourceConformance"]


class ResourceConformance(Votes, Endings, InDoubt, Keeping, Losses, Manners, Fencing, Crashes):
    """Inherit it in a class whose name begins with Test, and write the fixture `subject`: in the class, or beside it.

    A fixture beside it may have scope="module", to make the database once: checks never use each other's rows or
    identifiers. Each comes as a coordinator of its own, so a database that belongs to one journal is made for each.
    """

    @pytest.fixture(params=["sync", "async"])
    def mode(self, request: pytest.FixtureRequest) -> Mode:
        """Under which runner: blocking, or on an event loop."""
        mode: Mode = request.param
        return mode

    @pytest.fixture(autouse=True)
    def counted(self, request: pytest.FixtureRequest) -> None:
        """Every check is counted under its class (`--syncpoint-json`)."""
        request.node.user_properties.append((CONFORMANCE, type(self).__name__))

    @pytest.fixture
    def bench(self, subject: Subject, mode: Mode) -> Iterator[Bench]:
        """The adapter under one runner. What a check leaves behind is ended here."""
        with Bench(subject, mode) as bench:
            yield bench
