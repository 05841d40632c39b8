"""The one outer loop and all around it."""
