"""Every decoder of Syncpoint's, by name. A new one is added to its table, and all forms of fuzzing take it up.

A later vocabulary of messages belongs into codecs.py as one more row, beside that of links.
"""

from __future__ import annotations

from tests.fuzz.codecs import CODECS
from tests.fuzz.decoder import Decoder
from tests.fuzz.files import FILES_DECODERS
from tests.fuzz.texts import TEXTS

DECODERS: dict[str, Decoder] = {one.name: one for one in (*CODECS, *TEXTS, *FILES_DECODERS)}
assert len(DECODERS) == len((*CODECS, *TEXTS, *FILES_DECODERS)), "two decoders of one name"
