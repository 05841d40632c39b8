"""Distilled sets that others released: read without trust, asked what they leave out, turned into ordinary files."""
