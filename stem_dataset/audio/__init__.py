"""Decode audio files, and make them 48 kHz, mono and 24 bit."""
