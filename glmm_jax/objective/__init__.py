"""Approximations of the marginal likelihood."""
