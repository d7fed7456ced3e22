"""The system matrix and its factorisations."""
