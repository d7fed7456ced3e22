"""What analysts ask of a fit: one verb a file."""
