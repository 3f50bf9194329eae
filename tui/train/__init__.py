"""Starting a training run: configuration form, data preparation, cost estimate."""
