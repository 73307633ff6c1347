"""Trees of managers: a transaction that crosses services."""
