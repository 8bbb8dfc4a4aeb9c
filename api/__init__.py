"""The synchronous door: FastAPI over the same store, rules and model as the stream.  Routes authenticate, call one use case, present."""
