"""Frozen latent diffusion models: what they predict, how they are sampled, where they come from."""
