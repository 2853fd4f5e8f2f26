"""The page on which a person accepts, rejects and fixes labels."""
