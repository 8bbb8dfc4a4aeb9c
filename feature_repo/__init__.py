"""The Feast project: entities, feature views, push sources and the on-demand view, generated from the core's catalogue.

``feature_store.yaml`` and ``definitions`` are what ``feast apply`` reads; ``repository`` does the same from Python.  No logic
lives here: states are made by the stream, features by ``fraud``.
"""
