"""What every resource adapter must do, as checks that its author runs in pytest: `ResourceConformance`.

    subject.py   what the author says about the database: how a row is written, read from outside, a server restarted
    bench.py     one resource under one runner, its branches, and what is told when something is not as promised
    votes.py endings.py doubt.py keeping.py manners.py losses.py crashes.py    the checks, by what they are about
    suite.py     all of them together

Rows such as A4 or O20 are those of docs/testing.md. Not for: adapters' own traps; their own tests know those.
"""
