"""The points of the source: the shipped kit's own (`syncpoint.testing.crash.points`), under the name used here.

Not for: anything of its own.
"""

from __future__ import annotations

from syncpoint.testing.crash.points import PACKAGE, Kind, Point, enumerate_points, hit_by, resolve

__all__ = ["PACKAGE", "Kind", "Point", "enumerate_points", "hit_by", "resolve"]
