"""Labels that training reads and writes."""
