"""Learning one task after the other, without the data of those before."""
