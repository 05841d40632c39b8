"""What knows no image: configuration, errors, files, progress, randomness, engines."""
