"""Checkpoint files as bytes in, tensor facts out. No I/O here: `hfmem.hub` fetches, these modules parse."""
