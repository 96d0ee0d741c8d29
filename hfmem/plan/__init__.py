"""Questions asked of the bytes: what fits on which devices, how it is launched, how fast it can be at best."""
