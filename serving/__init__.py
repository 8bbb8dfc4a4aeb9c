"""Adapters that the stream and the API share: model, anomaly forest, rule files, online store, codec, settings, metric names.

What decides is in ``fraud``; what is here brings files, libraries and servers to it.  Nothing here knows Flink or FastAPI.
"""
