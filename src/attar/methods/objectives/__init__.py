"""What of the synthetic items is made to agree with the real ones."""
