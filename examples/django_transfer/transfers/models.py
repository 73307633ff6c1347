"""Accounts and transfers. Both databases have both tables; nothing but the transaction keeps them in step."""

from __future__ import annotations

from django.db import models


class Account(models.Model):
    balance = models.BigIntegerField()


class Transfer(models.Model):
    """One side of a transfer: what it did to an account of this database."""

    key = models.CharField(max_length=100, db_index=True)  # not unique: doing it twice must not go unnoticed
    ticket = models.CharField(max_length=32)
    account = models.ForeignKey(Account, models.PROTECT)
    amount = models.BigIntegerField()
