"""A tree of depth 2 in the model: a superior, a subordinate, each one's databases; real Coordinator, Subordinate.

    scope.py      what one exploration contains
    world.py      both nodes, their journals and databases, and what was ever sent between them, as one value
    steps.py      every step and every fault; recovering.py: a pass of recovery, and the superior asked for an outcome
    actions.py    everything that can happen next
    holding.py    what must hold in every state, and what must come about once faults stop
    showing.py    a state, to be read

What was sent between the nodes stays: each message may arrive at any time, any number of times, or never. So loss,
delay, repetition and reordering need no steps of their own. A journal is a folder's: death is proven, and of what was
not forced when a process dies all may be there, or nothing.
Not for: one manager alone, journals in databases, processes taken for dead (the rest of the model).
"""
