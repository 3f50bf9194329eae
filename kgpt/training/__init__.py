"""Training as Keras callbacks, losses, optimizers and data sets around `model.fit`."""
