"""What we learn from: vocabularies, catalogues, splits by time, examples, negatives."""
