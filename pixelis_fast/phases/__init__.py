"""The three phases: one runnable `main(config)` each; they do not import each other."""
