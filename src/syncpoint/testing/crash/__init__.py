"""Crashing at every point: your own code through `syncpoint_crash`, and the project's own crash tests.

    points.py    every point in the source, enumerated
    trap.py      an observer that records points, kills at one, meddles at others
    stops.py     the points of one run, each counted: the n-th time that a yield is reached
    child.py     a process that may die, and all it said before
    story.py     what is tried: your function, your check, your manager
    lives.py     what happens inside the processes: the one that dies, and the one that recovers
    explore.py   list the points, strike at each, recover, check
    report.py    what came of it, and the command that repeats one point

Not for: pytest (plugin.py); nothing here imports it.
"""
