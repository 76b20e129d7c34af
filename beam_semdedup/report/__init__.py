"""What a person looks at to choose `eps`: read from the results in the cache, written as one page."""
