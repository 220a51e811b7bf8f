"""Methods in which the tokens of both modalities attend to each other."""
