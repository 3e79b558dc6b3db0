"""Fleet: roll images out to hosts, watch them, take them back."""
