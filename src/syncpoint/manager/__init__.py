"""The transaction manager: live transactions, commit, recovery, operators' wishes; a blocking and an asyncio facade.

Not for: the rules (protocol/), the databases (resources/), the decision log (journal/).
"""
