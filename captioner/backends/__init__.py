"""Runtimes that compute a model. numpy arrays go in and out; `captioner.backends.base.Backend` is the protocol."""
