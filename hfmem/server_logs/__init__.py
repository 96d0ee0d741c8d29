"""A running engine's own log: what it says, and how it differs from the prediction."""
