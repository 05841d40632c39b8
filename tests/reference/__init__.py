"""Literal, slow transcriptions: the oracles of the tests, and what bench/ measures against."""
