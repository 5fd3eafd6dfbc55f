"""The controller's shell: it looks, asks the core, writes the phase down, and only then lets its hands act."""
