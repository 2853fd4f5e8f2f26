"""Judge labels and masks, by numbers and by eye."""
