"""The nouns of the pipeline and the few tools that every stage needs. No torch, no image library."""
