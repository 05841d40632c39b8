"""What distilled sets are used for."""
