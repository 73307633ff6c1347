"""What looks on while a scene runs: the shipped kit's own (`syncpoint.testing.crash.trap`), under the name used here.

Not for: anything of its own.
"""

from __future__ import annotations

from syncpoint.testing.crash.trap import Place, Target, Trap, die, is_background, places_of, told_without, what_of

__all__ = ["Place", "Target", "Trap", "die", "is_background", "places_of", "told_without", "what_of"]
