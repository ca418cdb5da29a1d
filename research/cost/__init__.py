"""What acceleration costs next to other caches."""
