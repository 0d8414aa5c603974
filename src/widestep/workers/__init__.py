"""Workers and processes: W logical replicas, computed by however many processes there are, with the same bytes."""
