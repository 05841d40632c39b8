"""Scored runs kept as small files, and the page made of them."""
