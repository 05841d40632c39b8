"""What computes: networks and their training, codecs, experts, observers, diffusion models, generators."""
