"""On what a model is proved."""
