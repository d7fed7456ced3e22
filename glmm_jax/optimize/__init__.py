"""From data to the minimum of the deviance: start, search, boundary, certificate."""
