"""What is stored, and how it becomes images."""
