"""Networks trained on the real items, whose way trajectory matching lets a student follow."""
