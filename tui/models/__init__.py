"""Which models there are, and the server that runs one of them."""
