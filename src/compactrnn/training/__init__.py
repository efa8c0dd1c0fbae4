"""The training loop: recipes, phases, checkpoints."""
