"""One HTML page that says and shows what distilled files are and what they are worth."""
