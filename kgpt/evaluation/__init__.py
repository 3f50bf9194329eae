"""How good a model is: likelihoods, generation quality, and how sure the figures are."""
