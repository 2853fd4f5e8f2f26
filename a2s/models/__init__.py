"""Networks: encoders and their weights, the activation network, the detector."""
