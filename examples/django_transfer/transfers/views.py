"""The view: money moves from an account in one database to an account in the other, exactly once for each request.

    POST /transfer    Idempotency-Key: …    {"source": "default", "debit": 1, "credit": 2, "amount": 5}

A client that has no answer sends the same request again, to whichever worker: it gets the stored reply.
"""

from __future__ import annotations

import json
import os
import uuid
from typing import Any

from django.http import HttpRequest, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST

from syncpoint.django import atomic
from syncpoint.errors import (
    AlreadyCommitted,
    DifferentRequest,
    OutcomePending,
    ResourceUnavailable,
    TransactionAborted,
    TransactionRunning,
)
from transfers.models import Account, Transfer

DATABASES = ["default", "ledger"]


class Refused(Exception):
    """The business says no; nothing happens anywhere."""


@csrf_exempt
@require_POST
def transfer(request: HttpRequest) -> JsonResponse:
    key = request.headers.get("Idempotency-Key", "")
    if not key:
        return _answer({"error": "Give the request an Idempotency-Key."}, 400)
    try:
        with atomic(using=DATABASES, id=key, fingerprint=request.body) as tx:
            reply = move(key, json.loads(request.body))
            tx.set_result(reply)
    except AlreadyCommitted as before:
        return _answer(before.result)
    except DifferentRequest:
        return _answer({"error": "This key was used for another request."}, 422)
    except Refused as why:
        return _answer({"error": str(why)}, 402)
    except TransactionRunning:
        return _answer({"error": "This very request is running now; ask again."}, 409)
    except (TransactionAborted, ResourceUnavailable, OutcomePending) as error:
        # Not committed, or not known to be: in either case the same request, sent again, is answered rightly.
        return _answer({"error": str(error)}, 503)
    return _answer(reply)


def move(key: str, order: dict[str, Any]) -> dict[str, Any]:
    """Inside the block: plain Django."""
    amounts = {alias: -order["amount"] if alias == order["source"] else order["amount"] for alias in DATABASES}
    ticket, balances = uuid.uuid4().hex, {}
    for alias in DATABASES:  # always in this order: two transfers can then not wait for each other across databases
        number = order["debit"] if amounts[alias] < 0 else order["credit"]
        account = Account.objects.using(alias).select_for_update().get(pk=number)
        account.balance += amounts[alias]
        if account.balance < 0:
            raise Refused(f"Account {number} has not enough.")
        account.save(using=alias)
        Transfer.objects.using(alias).create(key=key, ticket=ticket, account=account, amount=amounts[alias])
        balances[alias] = account.balance
    return {"ticket": ticket, "balances": balances}


@require_GET
def accounts(request: HttpRequest) -> JsonResponse:
    return _answer({alias: list(Account.objects.using(alias).order_by("pk").values()) for alias in DATABASES})


def _answer(content: dict[str, Any], status: int = 200) -> JsonResponse:
    return JsonResponse(content, status=status, headers={"X-Worker": str(os.getpid())})
