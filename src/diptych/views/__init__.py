"""Small functions from a sample to what a method wants to see. Random ones take an explicit numpy generator."""
