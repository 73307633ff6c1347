"""The same protocol and the same drivers as production, on simulated ports (R4). Nothing is reimplemented here."""
