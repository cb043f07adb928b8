"""The model: weights, engines, vectors, and what is read off them."""
