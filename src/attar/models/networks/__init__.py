"""Networks that are trained on images and on codes."""
