"""Frozen generators of images: what they must offer, whose code may run, where their weights come from."""
