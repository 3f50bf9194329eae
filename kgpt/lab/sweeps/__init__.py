"""A sweep: trials of one configuration with other values of some options, and what they show."""
