"""The simulator: the production protocol, manager, journal and adapters on simulated ports (R4).

    world.py       virtual time, chance, the history and its hash: one seed, one world
    process.py     a process that can be killed, paused, and whose clock is wrong
    runtime.py     drives scripts in virtual time: the Runtime port
    network.py     requests and replies that are late, lost, or cut off
    database.py    a database server that restarts, and its adapter
    host.py        a machine with a disk; applications on it, and whoever starts them again
    wires.py       messages between processes; links.py: connections below the real exchange
    trees.py       managers that take part under each other; services.py: what their applications do
    site.py        a node, and resource managers that run as processes over rm_data.py
    faults.py      what goes wrong, when: the plan of a seed; faults_site.py: where processes talk to each other
    workloads/     what the applications do, and what must be true in the end
    run.py         one seed: safety under faults, then heal, then liveness

Nothing of the rules is reimplemented here. Not for: real databases or real time (tests/crash, testing/).
"""
