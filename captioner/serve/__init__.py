"""The web server: a page for pictures that are dropped on it, and an HTTP API behind it; see `captioner.serve.app`."""
