"""The TensorFlow side of an exported model: what is traced into the SavedModel."""
