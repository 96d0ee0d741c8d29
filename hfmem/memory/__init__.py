"""From an architecture and a serving configuration to integer bytes on each rank: weights, cache, activations, runtime."""
