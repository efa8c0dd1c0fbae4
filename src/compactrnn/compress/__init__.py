"""How a big model becomes small."""
