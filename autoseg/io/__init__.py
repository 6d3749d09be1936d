"""Bytes to nouns and back: image files, the preprocessed case store, weights. Nothing is decided here."""
