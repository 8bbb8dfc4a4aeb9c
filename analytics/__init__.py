"""The analyst's side: a backtest of rules over recorded decisions.

May import ``fraud``, ``serving`` and ``training``.  Nothing here is on the way of a decision.
"""
