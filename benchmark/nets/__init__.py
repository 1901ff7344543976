"""Networks and the parts that methods build them from."""
