"""Continual learning from a distilled memory."""
