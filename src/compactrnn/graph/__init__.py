"""One exported graph of any model: units, who reads them, and time."""
