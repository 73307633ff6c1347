"""The memory resource passes the conformance suite."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from syncpoint.testing import ResourceConformance
from tests.testing.conformance.subjects import MemorySubject

_numbers = itertools.count(1)


class TestMemory(ResourceConformance):
    @pytest.fixture
    def subject(self) -> Iterator[MemorySubject]:
        subject = MemorySubject(f"conformance-{next(_numbers)}")
        yield subject
        subject.close()
