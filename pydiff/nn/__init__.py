"""Blocks of the networks: residual, attention, embeddings, and one level of a U-Net on the way down or up."""
