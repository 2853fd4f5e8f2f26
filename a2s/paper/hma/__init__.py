"""Historical moving average of labels (DeepUSPS), the alternative of Table VIII."""
