"""Syncpoint: one piece of work over several databases, everywhere or nowhere, exactly once."""
