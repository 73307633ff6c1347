"""The flag that writes the transcripts anew. Review the difference as text."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regenerate", action="store_true", help="write the expected output of the transcripts anew")


@pytest.fixture
def regenerate(request: pytest.FixtureRequest) -> bool:
    # Absent when the whole suite is run: pytest reads the options of this folder only when it is named.
    return bool(request.config.getoption("--regenerate", default=False))
