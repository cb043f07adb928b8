"""Bytes in, 48 kHz, mono and 24 bit out."""
