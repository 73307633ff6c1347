"""Every order of everything, for small sizes: an exhaustive exploration of the real classes of `protocol/`.

    names.py        short names of attempts and branches, and their real identifiers
    journal.py      the journal: what is visible, what is durable, who keeps whom; first writer wins by `admit`
    manager.py      a resource manager: real Participants in a real InDoubtTable, and evidence
    process.py      an application's process: a real Coordinator, and what its manager remembers
    world.py        all of these and what is on its way between them, as one value
    steps.py        every step that can happen to a live transaction, and every fault
    passes.py       what a pass of recovery remembers; recovering.py: its steps, each of which all else may overtake
    scope.py        what one exploration contains, and so its bounds
    scopes.py       the scopes that are explored
    actions.py      everything that can happen next in a world
    invariants.py   what must hold in every state
    healing.py      what must come about from every state once faults stop
    interning.py    small numbers for the parts of a world
    explore.py      breadth first, every state once
    transcript.py   the shortest way to a violation, to be read, and to be played again
    tree/           two managers, one below the other, as another such value; rules.py: which of the two a scope is of
    mutants/        deliberate bugs in protocol/; every one must be refuted (refute.py)
    report.py       many scopes and mutants side by side, and the figures

`python -m syncpoint.simulation.model` explores all scopes. Nothing of the protocol is written a second time here
(R4). Not for: the drivers, runners and managers, which the simulator runs.
"""
