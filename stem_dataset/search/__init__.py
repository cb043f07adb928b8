"""Find stems by name and by sound."""
