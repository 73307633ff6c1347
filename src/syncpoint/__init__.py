"""Syncpoint: one piece of work over several databases, everywhere or nowhere, exactly once.

    with syncpoint.TransactionManager(journal="./syncpoint-journal", resources={...}) as manager:
        with manager.transaction() as tx:
            tx.connect("bank").execute(...)
            tx.connect("ledger").cursor().execute(...)

`ResourceManager` is the base of resource managers of your own, `Resource` that of adapters for other databases
(`syncpoint.resources.base` has what these need). Not for: the insides.
"""

from __future__ import annotations

from syncpoint.errors import (
    AlreadyCommitted,
    ConfigurationError,
    ContextRefused,
    DifferentRequest,
    FormatTooNew,
    HeuristicHazard,
    HeuristicMixed,
    HeuristicOutcome,
    IdTooLong,
    JournalDamaged,
    JournalError,
    JournalFailed,
    JournalRefused,
    ManagerClosed,
    NotAllowed,
    OutcomePending,
    ResourceManagerError,
    ResourceUnavailable,
    ResultNotStorable,
    ResultUnreadable,
    SetupRefused,
    SyncpointError,
    TransactionAborted,
    TransactionEnded,
    TransactionError,
    TransactionRunning,
    TransactionTimeout,
    UnknownResource,
    WrongResource,
)
from syncpoint.manager.aio import AsyncTransaction, AsyncTransactionManager
from syncpoint.manager.context import current
from syncpoint.manager.contexts import Context
from syncpoint.manager.sync import Transaction, TransactionManager
from syncpoint.manager.tree import Tree
from syncpoint.resources.base import Resource
from syncpoint.resources.own import ResourceManager

__all__ = [
    "AlreadyCommitted",
    "AsyncTransaction",
    "AsyncTransactionManager",
    "ConfigurationError",
    "Context",
    "ContextRefused",
    "DifferentRequest",
    "FormatTooNew",
    "HeuristicHazard",
    "HeuristicMixed",
    "HeuristicOutcome",
    "IdTooLong",
    "JournalDamaged",
    "JournalError",
    "JournalFailed",
    "JournalRefused",
    "ManagerClosed",
    "NotAllowed",
    "OutcomePending",
    "Resource",
    "ResourceManager",
    "ResourceManagerError",
    "ResourceUnavailable",
    "ResultNotStorable",
    "ResultUnreadable",
    "SetupRefused",
    "SyncpointError",
    "Transaction",
    "TransactionAborted",
    "TransactionEnded",
    "TransactionError",
    "TransactionManager",
    "TransactionRunning",
    "TransactionTimeout",
    "Tree",
    "UnknownResource",
    "WrongResource",
    "current",
]
