"""What a sound is: tempo, key, category, features."""
