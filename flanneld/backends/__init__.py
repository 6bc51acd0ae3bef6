"""The data paths that ship inside the daemon; the table that names them is `flanneld.backend.BACKENDS`."""
