"""Demonstrations on real databases that come and go with them. Each prints what it counted from outside.

Not for: tests; those stand in tests/ and check far more.
"""
