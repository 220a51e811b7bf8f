"""The few skeletons on which methods stand."""
