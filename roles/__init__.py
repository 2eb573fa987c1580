"""One module per slice; each is one @deploy function of the same name."""
