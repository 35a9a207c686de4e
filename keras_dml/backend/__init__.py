"""What `keras.ops` cannot say: state changed in place."""
