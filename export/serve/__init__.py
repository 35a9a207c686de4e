"""An HTTP and gRPC server for exported models that speaks TensorFlow Serving's protocols."""
