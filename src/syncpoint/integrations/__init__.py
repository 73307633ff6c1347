"""How other libraries take part in a transaction: SQLAlchemy. Each is optional and imported only when used."""
