"""Model families: one adapter each, and the table of known models."""
