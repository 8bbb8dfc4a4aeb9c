"""The analyst's side: ClickHouse's schema, the engine that stands in for a server, the ledger's sink, saved queries.

May import ``fraud`` and ``serving``.  Nothing here is on the way of a decision.
"""
