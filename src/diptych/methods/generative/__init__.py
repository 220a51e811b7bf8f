"""Methods in which a language model says what is seen."""
