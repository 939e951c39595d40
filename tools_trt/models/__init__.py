"""Networks as exportable modules: tensors in, tensors out, one file per graph."""
