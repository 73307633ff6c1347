"""For tests, ours and yours.

    every_point, `syncpoint_crash`   crash your own transaction at every point (a pytest fixture; docs/testing.md)
    ResourceConformance              what the author of a resource adapter runs: five lines (docs/testing.md)
    checkers/                        was a recorded history right? (docs/checkers.md)
    servers/ proxy disks             private database servers, replies that get lost, disks that fail

What stands here is loaded when it is asked for: only `ResourceConformance` and the fixture need pytest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from syncpoint.testing.conformance.subject import SqlSubject, Subject, Unsupported
    from syncpoint.testing.conformance.suite import ResourceConformance
    from syncpoint.testing.crash.explore import explore
    from syncpoint.testing.crash.report import CrashReport
    from syncpoint.testing.crash.story import Story, every_point
    from syncpoint.testing.plugin import SyncpointCrash

__all__ = [
    "CrashReport",
    "ResourceConformance",
    "SqlSubject",
    "Story",
    "Subject",
    "SyncpointCrash",
    "Unsupported",
    "every_point",
    "explore",
]

_PLACES = {
    "CrashReport": "crash.report",
    "ResourceConformance": "conformance.suite",
    "SqlSubject": "conformance.subject",
    "Story": "crash.story",
    "Subject": "conformance.subject",
    "SyncpointCrash": "plugin",
    "Unsupported": "conformance.subject",
    "every_point": "crash.story",
    "explore": "crash.explore",
}


def __getattr__(name: str) -> Any:
    import importlib

    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
