"""The model that ships: its world, its training script, its weights."""
