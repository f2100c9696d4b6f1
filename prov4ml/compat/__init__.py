"""Other trackers' calls on a ``Run``, for scripts that change nothing but their import."""
