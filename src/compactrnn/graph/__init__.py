"""The exported graph of any model, and the dependency analysis of its hidden units."""
