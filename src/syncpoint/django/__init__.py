"""`syncpoint.django`: one transaction over several of Django's databases, on Django's own connections.

    from syncpoint.django import atomic, on_commit

    def transfer(request):
        with atomic(using=["default", "ledger"], id=request.headers["Idempotency-Key"]):
            Account.objects.filter(pk=1).update(balance=F("balance") - 10)
            Entry.objects.using("ledger").create(account=1, amount=-10)
            on_commit(lambda: send_mail(...))

The settings say where decisions are durable: `SYNCPOINT = {"journal": "/var/lib/shop/journal"}`. PostgreSQL through
psycopg 3, MariaDB through mysqlclient, blocking code. Not for: anything but names; see blocks.py.
"""

from syncpoint.django.blocks import atomic, current, on_commit
from syncpoint.django.configuration import manager
from syncpoint.django.errors import AsyncNotSupported, RefusedInBlock

__all__ = ["AsyncNotSupported", "RefusedInBlock", "atomic", "current", "manager", "on_commit"]
