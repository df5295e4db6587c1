"""Where the engine meets other packages."""
