"""The pure core: events, windows, geo, catalogue, rules, decisions.

Nothing in this package reads a clock, opens a socket or a file, or imports a framework.  The stream, the request path, the
backfill and the backtest all call it, so that a feature has one definition.
"""
