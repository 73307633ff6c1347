"""Where decisions are durable: the interface (base.py), and a folder of files (folder.py)."""
