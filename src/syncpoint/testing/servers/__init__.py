"""Private database servers for tests: real servers, in temporary folders, on loopback ports."""
