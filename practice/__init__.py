"""The server's side of Cabinet: the practice command. Debian's Python and its standard library alone."""
