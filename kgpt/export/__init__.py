"""Models for other software: what each format wants, and nothing that trains or generates."""
