"""The rules of commit as pure state machines: no IO, clock, randomness, threads or logging (R1).

Inputs are method calls, outputs are *effects* whose type orders them: what must be durable first
(`force`), then what may be sent (`then`), and what may be written whenever (`lazily`). Time and chance
are arguments. Not for: waiting, retrying, talking to anything.
"""
