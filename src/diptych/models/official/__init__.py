"""From the names of weights in the checkpoints that papers published to ours, a file a method."""
