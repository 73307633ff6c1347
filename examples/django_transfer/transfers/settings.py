"""Settings: two databases, and where Syncpoint's decisions are durable. The addresses come from the environment."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

ENGINES = {"postgresql": "django.db.backends.postgresql", "mariadb": "django.db.backends.mysql"}


def database(url: str) -> dict[str, Any]:
    """An entry of DATABASES."""
    parts = urlsplit(url)
    return {
        "ENGINE": ENGINES[parts.scheme],
        "NAME": parts.path[1:],
        "USER": parts.username or "",
        "PASSWORD": parts.password or "",
        "HOST": parts.hostname or "",
        "PORT": parts.port or "",
        "CONN_MAX_AGE": 60,
    }


DATABASES = {"default": database(os.environ["BANK_URL"]), "ledger": database(os.environ["LEDGER_URL"])}
SYNCPOINT = {"journal": os.environ["SYNCPOINT_JOURNAL"], "timeout": 5}

SECRET_KEY = "only for this example"  # noqa: S105
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
INSTALLED_APPS = ["transfers"]
ROOT_URLCONF = "transfers.urls"
WSGI_APPLICATION = "transfers.wsgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
