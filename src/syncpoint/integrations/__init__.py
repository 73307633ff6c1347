"""How other libraries take part in a transaction (SQLAlchemy), and how one is watched (Prometheus, OpenTelemetry).

Each is optional and imported only when used.
"""
