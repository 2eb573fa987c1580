"""The technician's side of Cabinet: a clinic file becomes a server, and a proof of it."""
