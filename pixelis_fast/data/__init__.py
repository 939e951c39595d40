"""Where training data comes from: generators, readers, converters."""
