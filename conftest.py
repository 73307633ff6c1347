"""Loads our own pytest plugin for everything in this checkout, when coverage looks already (see pyproject.toml)."""

pytest_plugins = ["syncpoint.testing.plugin"]
