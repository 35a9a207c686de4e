"""What `keras.ops` cannot say: state changed in place, replicas, integers of 64 bits."""
