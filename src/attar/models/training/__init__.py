"""The one loop that trains networks, and their test."""
