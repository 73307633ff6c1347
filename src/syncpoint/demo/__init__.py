"""Demonstrations on real databases. Not for: tests; each prints what it counted from outside."""
