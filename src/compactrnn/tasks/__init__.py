"""On what a model is proved: one file each."""
