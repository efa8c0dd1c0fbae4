"""Tasks that models are trained and evaluated on: one file each."""
