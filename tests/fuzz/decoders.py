"""Every decoder of Syncpoint's, by name. A new one is added to its table, and all forms of fuzzing take it up.

The messages of links (`syncpoint.messages`) belong into codecs.py as one more row.
"""

from __future__ import annotations

from tests.fuzz.codecs import CODECS
from tests.fuzz.decoder import Decoder
from tests.fuzz.files import FILES_DECODERS
from tests.fuzz.texts import TEXTS

DECODERS: dict[str, Decoder] = {one.name: one for one in (*CODECS, *TEXTS, *FILES_DECODERS)}
assert len(DECODERS) == len((*CODECS, *TEXTS, *FILES_DECODERS)), "two decoders of one name"
