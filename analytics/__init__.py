"""The analyst's side: ClickHouse's schema, the engine that stands in for a server, the ledger's sink, saved queries, backtests.

May import ``fraud``, ``serving`` and ``training``.  Nothing here is on the way of a decision.
"""
