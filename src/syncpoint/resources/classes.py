"""Classes of users and other packages as resources: `module:Class` in a configuration, and what an entry point holds.

Both kinds are taken: a `Resource` (resources/base.py) as it is, a `ResourceManager` (resources/own.py) through its
adapter. Not for: schemes and entry points themselves (registry.py).
"""

from __future__ import annotations

import difflib
import importlib
import re
from typing import Any

from syncpoint.errors import ConfigurationError
from syncpoint.resources.base import Resource
from syncpoint.resources.own import ResourceManager

__all__ = ["as_resource", "load_class"]

_FORM = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*\Z", re.ASCII)


def as_resource(loaded: object, where: str, advice: str) -> type[Resource]:
    """The Resource of what was loaded. Raises ConfigurationError, saying `where` it stood and `advice`; ImportError
    when the adapter needs a driver that is not installed."""
    if isinstance(loaded, type) and issubclass(loaded, Resource):
        return loaded
    if isinstance(loaded, type) and issubclass(loaded, ResourceManager):
        from syncpoint.resources.own_adapter import resource_class

        return resource_class(loaded)
    raise ConfigurationError(
        f"{where} is a subclass of neither syncpoint.Resource nor syncpoint.ResourceManager.",
        advice=advice,
    )


def load_class(name: str, text: str) -> type[Resource]:
    """The Resource that `class = "module:Class"` of the resource `name` names; imports the module.

    Raises ConfigurationError: not of that form, no such module or class, a module that raises, another kind of class.
    """
    if not _FORM.match(text):
        raise ConfigurationError(
            f"The class of the resource {name!r} is {text!r}.", advice='Write "package.module:Class".'
        )
    module, _, path = text.partition(":")
    found = _find(name, text, _import(name, text, module), path)
    where = f"The class {text} of the resource {name!r}"
    try:
        return as_resource(found, where, "Name such a class.")
    except ImportError as error:
        raise ConfigurationError(
            f"{where} needs the Python module {error.name}, which is missing.",
            advice="Run: pip install 'syncpoint[sqlite]'",
        ) from error


def _import(name: str, text: str, module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        itself = error.name is not None and f"{module}.".startswith(f"{error.name}.")
        raise ConfigurationError(
            f"The class {text} of the resource {name!r} cannot be loaded: there is no module {error.name}.",
            advice="Set PYTHONPATH to the folder it is in, or install its package, and look for misspellings."
            if itself
            else "Install what that class needs.",
        ) from error
    except Exception as error:  # somebody else's module runs here
        raise ConfigurationError(
            f"The class {text} of the resource {name!r} cannot be loaded: importing {module} raised "
            f"{type(error).__name__}: {error}.",
            advice="Mend that module.",
        ) from error


def _find(name: str, text: str, module: Any, path: str) -> object:
    found = module
    for part in path.split("."):
        inside, found = found, getattr(found, part, None)
        if found is None:
            near = difflib.get_close_matches(part, dir(inside), n=1)
            raise ConfigurationError(
                f"The class {text} of the resource {name!r} is not there: {module.__name__} has no {path}.",
                advice=f"Did you mean {near[0]!r}?" if near else "Name a class of that module.",
            )
    return found
