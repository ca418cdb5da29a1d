"""What acceleration costs beside other caches."""
