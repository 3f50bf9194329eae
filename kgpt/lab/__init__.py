"""A laboratory for runs: what they saw and when, what they did at a step, and how they compare."""
