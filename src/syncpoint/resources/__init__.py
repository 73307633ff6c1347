"""Resource managers: one adapter a database, each written once as scripts. `base.py` is the interface."""
