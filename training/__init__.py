"""Point-in-time sets, training, evaluation: what turns history into a model."""
