"""What is not the main story."""
