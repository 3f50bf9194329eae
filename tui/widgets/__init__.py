"""Parts of screens: each file is one widget."""
